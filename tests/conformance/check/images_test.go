// Package check runs each binary that goes into an image on loopback and talks to it:
//
//	BIN=<folder of the programs> go test ./check          (build.sh does it)
package check

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "sigs.k8s.io/gateway-api-conformance-images/echo-basic/grpcechoserver"
	"sigs.k8s.io/gateway-api/conformance/utils/echo"
)

var bin = os.Getenv("BIN") + "/"

func TestEchoBasicHTTP(t *testing.T) {
	plain, h2c, secure := port(t), port(t), port(t)
	start(t, []string{"HTTP_PORT=" + plain, "H2C_PORT=" + h2c, "HTTPS_PORT=" + secure,
		"TLS_SERVER_CERT=" + bin + "cert.crt", "TLS_SERVER_PRIVKEY=" + bin + "cert.key",
		"POD_NAME=pod-1", "NAMESPACE=ns-1"}, "echo-basic")

	get := func(tr *http.Transport, url string) map[string]any {
		body := eventually(t, func() ([]byte, error) {
			resp, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get(url)
			if err != nil {
				return nil, err
			}
			defer resp.Body.Close()
			return io.ReadAll(resp.Body)
		})
		var m map[string]any
		must(t, json.Unmarshal(body, &m))
		return m
	}
	want(t, get(&http.Transport{}, "http://127.0.0.1:"+plain+"/a"), "pod", "pod-1")

	cleartext := new(http.Protocols)
	cleartext.SetUnencryptedHTTP2(true)
	want(t, get(&http.Transport{Protocols: cleartext}, "http://127.0.0.1:"+h2c+"/b"), "proto", "HTTP/2.0")

	m := get(&http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "echo"}},
		"https://127.0.0.1:"+secure+"/c")
	want(t, m["tls"].(map[string]any), "serverName", "echo")
}

func TestEchoBasicGRPC(t *testing.T) {
	p := port(t)
	start(t, []string{"GRPC_ECHO_SERVER=1", "HTTP_PORT=" + p, "HTTPS_PORT=" + port(t), "POD_NAME=pod-1"}, "echo-basic")
	conn, err := grpc.NewClient("127.0.0.1:"+p, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	pod := eventually(t, func() (string, error) {
		r, err := pb.NewGrpcEchoClient(conn).Echo(t.Context(), &pb.EchoRequest{})
		return r.GetAssertions().GetContext().GetPod(), err
	})
	if pod != "pod-1" {
		t.Errorf("answer from pod %q", pod)
	}
}

func TestEchoBasicUDP(t *testing.T) {
	p := port(t)
	start(t, []string{"UDP_ECHO_SERVER=1", "UDP_PORT=" + p, "POD_NAME=pod-1", "NAMESPACE=ns-1", "SERVICE_NAME=udp-echo"}, "echo-basic")
	answer := eventually(t, func() ([]byte, error) { return exchange("udp", p, "hello") })
	var m map[string]any
	must(t, json.Unmarshal(answer, &m))
	// What the suite's UDP helper reads.
	want(t, m, "request", "hello")
	want(t, m, "pod", "pod-1")
	want(t, m, "namespace", "ns-1")
	want(t, m, "service", "udp-echo")
}

func TestEchoBasicTCP(t *testing.T) {
	p := port(t)
	start(t, []string{"TCP_ECHO_SERVER=1", "TCP_PORT=" + p, "TLS_PORT=" + port(t)}, "echo-basic")
	greeting := eventually(t, func() ([]byte, error) { return exchange("tcp", p, "hello\n") })
	if !strings.HasPrefix(string(greeting), "Gateway API Test TCP Server") {
		t.Errorf("greeting %q", greeting)
	}
}

func TestEchoAdvanced(t *testing.T) {
	plain, secure, grpcPort, tcp := port(t), port(t), port(t), port(t)
	start(t, nil, "server", "--port="+plain, "--port="+secure, "--tls="+secure, "--grpc="+grpcPort,
		"--tcp="+tcp, "--crt="+bin+"cert.crt", "--key="+bin+"cert.key")

	host, err := os.Hostname()
	must(t, err)
	for _, args := range [][]string{
		{"http://127.0.0.1:" + plain + "/x", "--method=PUT", "-H", "X-Test:1"},
		{"https://127.0.0.1:" + secure + "/x", "-k"},
		{"grpc://127.0.0.1:" + grpcPort},
		{"tcp://127.0.0.1:" + tcp},
	} {
		r := eventually(t, func() (echo.Response, error) {
			out, err := exec.Command(bin+"client", args...).Output()
			// The suite parses the client's output with the same function.
			r := echo.ParseResponse(string(out))
			// The server answers 503 until all its ports are open.
			if err == nil && r.Code != "200" {
				err = fmt.Errorf("client %v: code %q, output:\n%s", args, r.Code, out)
			}
			return r, err
		})
		if r.Hostname != host {
			t.Errorf("client %v: answer of host %q", args, r.Hostname)
		}
	}
}

// start runs a binary until the test ends.
func start(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(bin+name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), &log, &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, &log)
		}
	})
}

// port returns a port that was free a moment ago.
func port(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	_, p, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	return p
}

// exchange sends one message and returns the first thing that comes back.
func exchange(network, port, msg string) ([]byte, error) {
	c, err := net.DialTimeout(network, "127.0.0.1:"+port, time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(c, msg); err != nil {
		return nil, err
	}
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	return buf[:n], err
}

// eventually repeats f until it succeeds, for ten seconds.
func eventually[T any](t *testing.T, f func() (T, error)) T {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		v, err := f()
		if err == nil {
			return v
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func want(t *testing.T, m map[string]any, key, value string) {
	t.Helper()
	if m[key] != value {
		t.Errorf("%s is %v, expected %s, in %v", key, m[key], value, m)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
