package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

const oci = "application/vnd.oci.image."

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// defaultPath is where the programs of an image are looked for.
const defaultPath = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (o options) config() (map[string]any, error) {
	env := o.env
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append([]string{defaultPath}, env...)
	}
	c := map[string]any{"Env": env, "User": o.user, "WorkingDir": "/"}
	if o.entrypoint != "" {
		c["Entrypoint"] = strings.Split(o.entrypoint, ",")
	}
	labels := map[string]string{}
	for _, l := range o.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return nil, fmt.Errorf("label %q is not K=V", l)
		}
		labels[k] = v
	}
	if len(labels) > 0 {
		c["Labels"] = labels
	}
	return c, nil
}

// blobs writes the layout's files.
type blobs struct{ *tar.Writer }

func (b blobs) file(name string, size int64, r io.Reader) error {
	if err := b.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(b, r)
	return err
}

func (b blobs) json(mediaType string, v any) (descriptor, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(text))
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: int64(len(text))}
	return d, b.file("blobs/sha256/"+sum, d.Size, bytes.NewReader(text))
}

// packLayer writes the layer to w; diffID names the content, digest what was written.
func (l *layer) packLayer(w io.Writer, compress bool) (diffID, digest string, err error) {
	content, written := sha256.New(), sha256.New()
	both := io.MultiWriter(w, written)
	if !compress {
		err = l.tar(both)
		digest = fmt.Sprintf("%x", written.Sum(nil))
		return digest, digest, err
	}
	z, err := gzip.NewWriterLevel(both, gzip.BestCompression) // packed once, downloaded often
	if err != nil {
		return "", "", err
	}
	if err = l.tar(io.MultiWriter(z, content)); err == nil {
		err = z.Close()
	}
	return fmt.Sprintf("%x", content.Sum(nil)), fmt.Sprintf("%x", written.Sum(nil)), err
}

// writeImage writes the archive; it appears under its name only when it is whole.
func (l *layer) writeImage(o options) error {
	config, err := o.config()
	if err != nil {
		return err
	}
	dir := filepath.Dir(o.out)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".layer-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	diffID, digest, err := l.packLayer(tmp, o.gzip)
	if err != nil {
		return err
	}
	size, err := tmp.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".image-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	b := blobs{tar.NewWriter(f)}
	layout := `{"imageLayoutVersion":"1.0.0"}`
	if err := b.file("oci-layout", int64(len(layout)), strings.NewReader(layout)); err != nil {
		return err
	}
	if err := b.file("blobs/sha256/"+digest, size, tmp); err != nil {
		return err
	}
	layer := descriptor{MediaType: oci + "layer.v1.tar", Digest: "sha256:" + digest, Size: size}
	if o.gzip {
		layer.MediaType += "+gzip"
	}
	conf, err := b.json(oci+"config.v1+json", map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + diffID}}})
	if err != nil {
		return err
	}
	manifest, err := b.json(oci+"manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": conf, "layers": []descriptor{layer}})
	if err != nil {
		return err
	}
	var manifests []descriptor
	for _, name := range o.names {
		// containerd takes the image's name from the first annotation, other tools the tag from the second
		manifest.Annotations = map[string]string{
			"io.containerd.image.name":          name,
			"org.opencontainers.image.ref.name": name[strings.LastIndexByte(name, ':')+1:],
		}
		manifests = append(manifests, manifest)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": manifests})
	if err != nil {
		return err
	}
	if err := b.file("index.json", int64(len(index)), bytes.NewReader(index)); err != nil {
		return err
	}
	if err := b.Close(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(f.Name(), o.out)
}
