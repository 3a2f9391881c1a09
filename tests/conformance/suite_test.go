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

const limit = 20 * time.Second

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
		return fmt.Errorf("%s does not end", s.command.Path)
	}
}

// What the suite calls for each case.
func open(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	beside, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return nil, nil, err
	}
	socket := filepath.Join(beside, "s.sock")
	arguments := append([]string{"--root", root, "--address", socket}, strings.Fields(os.Getenv("ARGUMENTS"))...)
	servers := make([]*server, 0, 2)
	one, err := start(filepath.Join(beside, "log"), socket, os.Getenv("SNAPSHOTTER"), arguments...)
	if err != nil {
		return nil, nil, err
	}
	servers = append(servers, one)
	name := ""
	if program := os.Getenv("CONTAINERD"); program != "" {
		config := filepath.Join(beside, "config.toml")
		text := fmt.Sprintf(containerdConfig, beside, socket)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, nil, err
		}
		socket, name = filepath.Join(beside, "containerd.sock"), "tested"
		two, err := start(filepath.Join(beside, "log2"), socket, program, "--config", config)
		if err != nil {
			return nil, nil, err
		}
		servers = append(servers, two)
	}
	connection, err := grpc.Dial("unix://"+socket, grpc.WithInsecure())
	if err != nil {
		return nil, nil, err
	}
	end := func() error {
		_ = connection.Close()
		for i := len(servers) - 1; i >= 0; i-- {
			if err := servers[i].stop(); err != nil {
				return err
			}
		}
		return os.RemoveAll(beside)
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), name), end, nil
}

func TestSuite(t *testing.T) {
	testsuite.SnapshotterSuite(t, "Tested", open)
}
