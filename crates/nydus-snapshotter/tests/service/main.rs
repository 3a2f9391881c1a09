//! The program over its socket: clients at once against a simple model, with calls that are
//! given up and a server that is killed; and what single calls answer.

mod calls;
mod model;
mod packaging;
mod server;
