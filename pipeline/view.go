package pipeline

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/view"
	"github.com/lntorch/lntorch/volume"
)

// ViewConfig shows an image and label maps in the browser.
type ViewConfig struct {
	Image  string   // any image that reads
	Labels []string // label maps, RTSTRUCT or SEG; of several the first is the reference
	Host   string   `flag:"host" default:"127.0.0.1" help:"address to listen at; another than this machine's own lets others in"`
	Port   int      `flag:"port" default:"0" range:"0..65535" help:"port to listen at (0: any free one)"`
	DICOMChoice
}

// Viewing says where the page is.
type Viewing struct {
	URL  string `json:"url"`
	Port int    `json:"port"`
	// only programs on this machine reach it
	Loopback bool `json:"-"`
}

// View serves a page with the image, the labels and their nodes until ctx ends, which is no error once
// the page is served. ready is called then. Nothing is written.
func View(ctx context.Context, c ViewConfig, o Output, ready func(Viewing) error) error {
	if err := settings.Check(&c); err != nil {
		return err
	}
	if err := view.Check(); err != nil {
		return err
	}
	server, err := view.Listen(c.Host, c.Port)
	if err != nil {
		return err
	}
	defer server.Close()
	scene, err := c.read(ctx, o)
	if err != nil {
		return err
	}
	for _, w := range scene.Warnings {
		o.Printf("WARNING: %s", w)
	}
	if !server.Loopback() {
		o.Printf("WARNING: --host %s: whoever reaches this machine and learns the URL sees the images, "+
			"and what is sent is not encrypted", c.Host)
	}
	if err := ready(Viewing{server.URL(), server.Port(), server.Loopback()}); err != nil {
		return err
	}
	return server.Serve(ctx, scene)
}

// read reads the files.
func (c *ViewConfig) read(ctx context.Context, o Output) (*view.Scene, error) {
	progress := o.progress()
	progress.Begin("reading", 1+len(c.Labels))
	defer progress.End()
	picture, stack, err := c.image(o)
	if err != nil {
		return nil, err
	}
	var maps []view.Volume
	for i, path := range c.Labels {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		progress.Done(1+i, shown(path))
		l, err := c.label(path, picture.File, stack, o)
		if err != nil {
			return nil, err
		}
		maps = append(maps, l)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return view.NewScene(ctx, picture, maps)
}

// shown is a file's or a folder's own name, which is all of a path that the page shows.
func shown(path string) string {
	if whole, err := filepath.Abs(path); err == nil {
		path = whole
	}
	return Printable(filepath.Base(path))
}

// image reads the image, and finds the stack if it is DICOM.
func (c *ViewConfig) image(o Output) (v view.Volume, stack *series.Stack, err error) {
	v = view.Volume{Path: c.Image, Name: shown(c.Image)}
	if series.Is(c.Image) {
		v.File, stack, err = openStack(c.Image, c.DICOMChoice, o)
		return v, stack, err
	}
	v.File, err = openImage(c.Image, c.DICOMChoice, o)
	return v, nil, err
}

// label reads a label map, or draws those of an RTSTRUCT or a SEG on the image.
func (c *ViewConfig) label(path string, picture volume.File, stack *series.Stack,
	o Output) (v view.Volume, err error) {
	v = view.Volume{Path: path, Name: shown(path)}
	if !series.Is(path) {
		if v.File, err = image.Read(path); err != nil {
			return v, err
		}
		if v.Names, err = datasetNames(path); err != nil {
			o.Printf("WARNING: the labels have no names: %v", err)
		}
		return v, nil
	}
	x, err := series.Find(path, system.Cores())
	if err != nil {
		return v, err
	}
	objects := labelObjects(x)
	if len(objects) != 1 {
		return v, fmt.Errorf("%s: found %d RTSTRUCT or SEG objects, expected one: give the file",
			path, len(objects))
	}
	m, warnings, err := drawObject(objects[0], nil, LabelsChoice{Threshold: 0.5},
		func(labels.References) (*reference, error) {
			if stack != nil {
				return stackReference(c.Image, stack, c.FixGeometry, system.Cores())
			}
			return fileReference(c.Image, picture.Head(), system.Cores())
		})
	if err != nil {
		return v, err
	}
	slices.Sort(warnings)
	for _, w := range slices.Compact(warnings) {
		o.Printf("WARNING: %s", w)
	}
	v.File, v.Names = labelMap{m}, map[int]string{}
	for i, l := range m.Labels {
		v.Names[i+1] = l.Name
	}
	if len(m.Labels) == 0 {
		return v, errors.New(path + ": found no labels in it")
	}
	return v, nil
}
