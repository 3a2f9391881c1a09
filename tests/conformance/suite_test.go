// Package conformance runs containerd's own snapshotter suite against a snapshotter program:
//
//	SNAPSHOTTER  the program; it gets --root and --address, and the words of ARGUMENTS
//	CONTAINERD   if set, a containerd that has the program as a proxy plugin, and is asked instead
//
// One server process for each case, ended by SIGTERM.
package conformance

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

// How long a server may take to listen, and to end.
const limit = 10 * time.Second

const containerdConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "%[1]s/containerd.sock"
[proxy_plugins.tested]
  type = "snapshot"
  address = "%[2]s"
`

// A server that was started, and what it logs to.
type server struct {
	command *exec.Cmd
	ended   chan error
}

func start(log, socket, program string, arguments ...string) (*server, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	command := exec.Command(program, arguments...)
	command.Stdout, command.Stderr = file, file
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return nil, err
	}
	s := &server{command: command, ended: make(chan error, 1)}
	go func() { s.ended <- command.Wait() }()
	for begun := time.Now(); time.Since(begun) < limit; time.Sleep(5 * time.Millisecond) {
		if connection, err := net.Dial("unix", socket); err == nil {
			return s, connection.Close()
		}
		if len(s.ended) > 0 {
			break
		}
	}
	said, _ := os.ReadFile(log)
	_ = s.stop()
	return nil, fmt.Errorf("%s does not listen: %s", program, said)
}

func (s *server) stop() error {
	_ = s.command.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.ended:
		s.ended <- nil
		return err
	case <-time.After(limit):
		_ = s.command.Process.Kill()
		s.ended <- <-s.ended
		return fmt.Errorf("%s does not end", s.command.Path)
	}
}

// The servers of one case, and the directory that they share.
type stack struct {
	beside  string
	servers []*server
}

func (s *stack) start(log, socket, program string, arguments ...string) error {
	one, err := start(filepath.Join(s.beside, log), socket, program, arguments...)
	if err == nil {
		s.servers = append(s.servers, one)
	}
	return err
}

// Starts the program, and containerd if there is one to ask. Returns what to dial, and the
// snapshotter's name there.
func (s *stack) up(root string) (socket, name string, err error) {
	socket = filepath.Join(s.beside, "s.sock")
	arguments := append([]string{"--root", root, "--address", socket}, strings.Fields(os.Getenv("ARGUMENTS"))...)
	if err := s.start("log", socket, os.Getenv("SNAPSHOTTER"), arguments...); err != nil {
		return "", "", err
	}
	containerd := os.Getenv("CONTAINERD")
	if containerd == "" {
		return socket, "", nil
	}
	config := filepath.Join(s.beside, "config.toml")
	if err := os.WriteFile(config, []byte(fmt.Sprintf(containerdConfig, s.beside, socket)), 0o600); err != nil {
		return "", "", err
	}
	socket = filepath.Join(s.beside, "containerd.sock")
	return socket, "tested", s.start("log2", socket, containerd, "--config", config)
}

// Ends every server, the last one first; the first error.
func (s *stack) down() (failure error) {
	for i := len(s.servers) - 1; i >= 0; i-- {
		err := s.servers[i].stop()
		// containerd, told to end while it still begins, says that it failed: that is its affair.
		_, exited := err.(*exec.ExitError)
		if err != nil && failure == nil && !(exited && i > 0) {
			said, _ := os.ReadFile(filepath.Join(s.beside, "log"))
			failure = fmt.Errorf("%w: %s", err, said)
		}
	}
	if err := os.RemoveAll(s.beside); err != nil && failure == nil {
		failure = err
	}
	return failure
}

// What the suite calls for each case.
func open(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	beside, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return nil, nil, err
	}
	servers := &stack{beside: beside}
	socket, name, err := servers.up(root)
	if err != nil {
		_ = servers.down()
		return nil, nil, err
	}
	connection, err := grpc.Dial("unix://"+socket, grpc.WithInsecure())
	if err != nil {
		_ = servers.down()
		return nil, nil, err
	}
	end := func() error {
		_ = connection.Close()
		return servers.down()
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), name), end, nil
}

func TestSuite(t *testing.T) {
	// The suite clears it too, but sets it back before its cases, which are parallel, begin.
	syscall.Umask(0)
	testsuite.SnapshotterSuite(t, "Tested", open)
}
