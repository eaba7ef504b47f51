// Command pack writes a container image without a container engine: an OCI layout in a tar with one layer, the same bytes for the same input. `ctr images import`
// and every registry client that reads OCI layouts accept it.
//
//	pack -o TAR -name REF [-name REF] [-user UID:GID] [-entrypoint A,B] [-env K=V] [-label K=V] [-libs] [-sealed] [-gzip] SRC=DST...
//
// A SRC is a file, a folder with all below it, or "@TARGET" for a symbolic link; -libs adds the shared libraries of dynamic programs.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	out, user, entrypoint string
	names, env, labels    []string
	libs, sealed, gzip    bool
}

func run(args []string) error {
	fs := flag.NewFlagSet("pack", flag.ContinueOnError)
	var o options
	list := func(name, usage string, to *[]string) {
		fs.Func(name, usage, func(s string) error { *to = append(*to, s); return nil })
	}
	fs.StringVar(&o.out, "o", "", "archive to write")
	list("name", "full image name with tag; repeatable", &o.names)
	fs.StringVar(&o.user, "user", "", "user that the image runs as, best in numbers: Kubernetes' runAsNonRoot cannot judge names")
	fs.StringVar(&o.entrypoint, "entrypoint", "", "entrypoint, comma separated")
	list("env", "K=V, repeatable", &o.env)
	list("label", "K=V, repeatable", &o.labels)
	fs.BoolVar(&o.libs, "libs", false, "add the shared libraries of dynamic programs")
	fs.BoolVar(&o.sealed, "sealed", false, "everything readable by everybody, nothing writable, for images that run with a read-only root")
	fs.BoolVar(&o.gzip, "gzip", false, "compress the layer: what a registry would hold")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.out == "" || len(o.names) == 0 || fs.NArg() == 0 {
		return fmt.Errorf("-o, -name and SRC=DST are needed")
	}
	l := &layer{libs: o.libs, sealed: o.sealed, files: map[string]string{}}
	for _, arg := range fs.Args() {
		src, dst, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not SRC=DST", arg)
		}
		if err := l.add(src, dst); err != nil {
			return err
		}
	}
	return l.writeImage(o)
}
