//! The program `nydus-slice`.

fn main() -> std::process::ExitCode {
    nydus_slice::main()
}
