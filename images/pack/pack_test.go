package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// archive reads a tar: names to contents, and the headers.
func archive(t *testing.T, r io.Reader) (map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	files, headers := map[string][]byte{}, map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files, headers
		}
		must(t, err)
		files[h.Name], err = io.ReadAll(tr)
		must(t, err)
		headers[h.Name] = h
	}
}

func source(t *testing.T) string {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "etc/weft"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "etc/weft/secretive"), []byte("text"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "program"), []byte("#!"), 0o770))
	return dir
}

func TestSameInputSameBytes(t *testing.T) {
	var archives [][]byte
	for range 2 {
		dir, out := source(t), filepath.Join(t.TempDir(), "x.tar")
		must(t, run([]string{"-o", out, "-name", "weft.test/x:1", "-gzip", "-sealed", dir + "/etc=/etc", dir + "/program=/usr/bin/program"}))
		b, err := os.ReadFile(out)
		must(t, err)
		archives = append(archives, b)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two builds differ")
	}
}

func TestSealedLayer(t *testing.T) {
	dir, out := source(t), filepath.Join(t.TempDir(), "x.tar")
	must(t, run([]string{"-o", out, "-name", "weft.test/x:1", "-name", "weft.test/y:2", "-user", "2102:2102", "-entrypoint", "/usr/bin/program,-v", "-env", "A=b",
		"-label", "version=1", "-gzip", "-sealed", dir + "/etc=/etc", dir + "/program=/usr/bin/program", "@program=/usr/bin/link"}))
	f, err := os.Open(out)
	must(t, err)
	defer f.Close()
	blobs, _ := archive(t, f)
	blob := func(digest string) []byte {
		b, ok := blobs["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")]
		if !ok {
			t.Fatalf("no blob %s", digest)
		}
		return b
	}
	var index struct{ Manifests []descriptor }
	must(t, json.Unmarshal(blobs["index.json"], &index))
	if len(index.Manifests) != 2 || index.Manifests[1].Annotations["io.containerd.image.name"] != "weft.test/y:2" {
		t.Errorf("names: %v", index.Manifests)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	must(t, json.Unmarshal(blob(index.Manifests[0].Digest), &manifest))
	var config struct {
		Config struct {
			User            string
			Env, Entrypoint []string
			Labels          map[string]string
		}
	}
	must(t, json.Unmarshal(blob(manifest.Config.Digest), &config))
	if c := config.Config; c.User != "2102:2102" || len(c.Env) != 2 || c.Env[0] != defaultPath || len(c.Entrypoint) != 2 || c.Labels["version"] != "1" {
		t.Errorf("config: %+v", c)
	}
	if manifest.Layers[0].MediaType != oci+"layer.v1.tar+gzip" {
		t.Errorf("layer: %v", manifest.Layers[0])
	}
	z, err := gzip.NewReader(bytes.NewReader(blob(manifest.Layers[0].Digest)))
	must(t, err)
	files, headers := archive(t, z)
	if string(files["etc/weft/secretive"]) != "text" || headers["usr/bin/link"].Linkname != "program" {
		t.Errorf("files: %v", headers)
	}
	for name, mode := range map[string]int64{"etc/": 0o555, "etc/weft/": 0o555, "etc/weft/secretive": 0o444, "usr/bin/program": 0o555} {
		if headers[name] == nil || headers[name].Mode != mode {
			t.Errorf("%s: %+v", name, headers[name])
		}
	}
}

func TestMistakes(t *testing.T) {
	out := filepath.Join(t.TempDir(), "x.tar")
	for _, args := range [][]string{
		{"-name", "a:1", "/etc/passwd=/etc/passwd"},
		{"-o", out, "-name", "a:1", "/etc/passwd"},
		{"-o", out, "-name", "a:1", "/does/not/exist=/x"},
		{"-o", out, "-name", "a:1", "-label", "x", "/etc/passwd=/x"},
	} {
		if run(args) == nil {
			t.Errorf("%q was accepted", args)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a mistake left an archive behind")
	}
}
