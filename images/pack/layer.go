package main

import (
	"archive/tar"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// layer is what goes into an image: path in the image => source. A source is a path of this machine, "@TARGET" for a symbolic link, or "/" for a folder that
// exists only because something lies in it.
type layer struct {
	libs, sealed bool
	files        map[string]string
}

// add takes a file, a folder with all below it, or "@TARGET" for a link.
func (l *layer) add(src, dst string) error {
	dst = path.Clean("/" + dst)
	if strings.HasPrefix(src, "@") {
		l.files[dst] = src
		return nil
	}
	root, err := filepath.EvalSymlinks(src)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		to := path.Join(dst, rel)
		if d.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(p)
			l.files[to] = "@" + target
			return err
		}
		l.files[to] = p
		if l.libs && d.Type().IsRegular() {
			return l.addLibs(p)
		}
		return nil
	})
}

var lddPath = regexp.MustCompile(`(/\S+) \(0x`)

// addLibs adds the libraries and the loader that ldd names for a dynamic program.
func (l *layer) addLibs(file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return nil // not a program
	}
	defer f.Close()
	if libs, _ := f.ImportedLibraries(); len(libs) == 0 {
		return nil
	}
	out, err := exec.Command("ldd", file).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", file, err)
	}
	for _, m := range lddPath.FindAllStringSubmatch(string(out), -1) {
		real, err := filepath.EvalSymlinks(m[1])
		if err != nil {
			return err
		}
		l.files[m[1]] = real
	}
	return nil
}

// tar writes the layer: sorted, owned by root, without times.
func (l *layer) tar(w io.Writer) error {
	for p := range l.files { // every parent is an entry, too
		for d := path.Dir(p); d != "/"; d = path.Dir(d) {
			if _, ok := l.files[d]; !ok {
				l.files[d] = "/"
			}
		}
	}
	names := make([]string, 0, len(l.files))
	for p := range l.files {
		names = append(names, p)
	}
	slices.Sort(names)
	tw := tar.NewWriter(w)
	for _, p := range names {
		if p == "/" {
			continue
		}
		if err := l.entry(tw, p, l.files[p]); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (l *layer) entry(tw *tar.Writer, p, src string) error {
	h := &tar.Header{Name: strings.TrimPrefix(p, "/")}
	if target, ok := strings.CutPrefix(src, "@"); ok {
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, target, 0o777
		return tw.WriteHeader(h)
	}
	info, err := os.Stat(src)
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, h.Name+"/", 0o755
	case info.Mode().IsRegular():
		h.Typeflag, h.Size, h.Mode = tar.TypeReg, info.Size(), int64(info.Mode().Perm())
	default:
		return fmt.Errorf("%s is neither a file nor a folder", src)
	}
	switch {
	case l.sealed && (info.IsDir() || h.Mode&0o111 != 0):
		h.Mode = 0o555
	case l.sealed:
		h.Mode = 0o444
	case p == "/tmp":
		h.Mode = 0o1777
	}
	if err := tw.WriteHeader(h); err != nil || h.Typeflag == tar.TypeDir {
		return err
	}
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(tw, f)
	return err
}
