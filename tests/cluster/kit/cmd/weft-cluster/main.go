// weft-cluster runs a single-node Kubernetes for integration tests, with no
// registry and no network: the control plane, the node agents, containerd and
// every pod live in one private network namespace (and in mount, PID, UTS and
// IPC namespaces of their own), so nothing on the host is touched and ending
// one process ends all of it.
//
// The components are linked in as Go modules; the program runs as one of them
// when it is called by that component's name (see node.go).
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const usage = `usage:
  weft-cluster up    [flags]            start the cluster, return when it is Ready
  weft-cluster down  [flags]            end it and remove everything it made
  weft-cluster load  [flags] TAR...     import image archives into the running cluster

Run test programs in the node's network: ip netns exec NAME env KUBECONFIG=... cmd
`

func main() {
	name := filepath.Base(os.Args[0])
	switch {
	case name == "etcd":
		os.Exit(runEtcd(os.Args[1]))
	case name == "weft-node":
		exit(runNode(os.Args[1]))
	case strings.HasPrefix(name, "kube"):
		os.Exit(runComponent(name))
	}
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	exit(command(os.Args[1], os.Args[2:]))
}

func command(verb string, args []string) error {
	fs := flag.NewFlagSet("weft-cluster "+verb, flag.ExitOnError)
	c := config{}
	fs.StringVar(&c.Name, "name", "weft-node", "name of the node, its network namespace and its cgroup")
	fs.StringVar(&c.State, "state", "/tmp/weft-cluster", "state directory, made by up and removed by down")
	fs.StringVar(&c.Images, "images", "images", "directory of image archives to import at start")
	fs.StringVar(&c.NodeIP, "node-ip", "10.200.0.1", "the node's address")
	fs.StringVar(&c.PodCIDR, "pod-cidr", "10.244.0.0/24", "pod addresses")
	fs.StringVar(&c.ServiceCIDR, "service-cidr", "10.96.0.0/16", "ClusterIP addresses")
	fs.StringVar(&c.LBCIDR, "lb-cidr", "203.0.113.0/24", "addresses for Services of type LoadBalancer")
	fs.StringVar(&c.ProxyMode, "proxy-mode", "iptables", "kube-proxy mode: iptables or nftables")
	fs.StringVar(&c.FeatureGates, "feature-gates", "", "feature gates for all components")
	timeout := fs.Duration("timeout", 3*time.Minute, "how long up waits")
	fs.Parse(args)
	if err := c.complete(); err != nil {
		return err
	}
	switch verb {
	case "up":
		return up(c, *timeout)
	case "down":
		return down(c)
	case "load":
		return load(c, fs.Args())
	}
	return fmt.Errorf("unknown command %q\n%s", verb, usage)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "weft-cluster:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
