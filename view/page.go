package view

import (
	"embed"
	"errors"
	"io/fs"
)

// The page: our own files, and NiiVue where the build has put it.
var (
	//go:embed page
	page embed.FS
	//go:embed niivue
	niivue embed.FS
)

// ErrNoNiiVue says that the program was built without what draws the page.
var ErrNoNiiVue = errors.New("this lntorch was built without NiiVue, which draws the images: install " +
	"npm (Debian, Ubuntu: apt-get install npm; others: https://nodejs.org) and build it again with make")

// Check returns ErrNoNiiVue if the page cannot be served.
func Check() error {
	_, err := script(niivue)
	return err
}

// script is NiiVue's script, gzipped, or ErrNoNiiVue where the build has put none there.
func script(from fs.FS) ([]byte, error) {
	data, err := fs.ReadFile(from, "niivue/niivue.umd.js.gz")
	if err != nil {
		return nil, ErrNoNiiVue
	}
	return data, nil
}

// files are all that is served, by their paths.
func (s *Scene) files() map[string]file {
	of := func(name string) [][]byte {
		data, err := fs.ReadFile(page, "page/"+name)
		if err != nil {
			panic(err) // embedded
		}
		return [][]byte{data}
	}
	drawing, _ := script(niivue) // Check has said so if there is none
	files := map[string]file{
		"":            {kind: "text/html; charset=utf-8", parts: of("index.html")},
		"view.css":    {kind: "text/css; charset=utf-8", parts: of("view.css")},
		"view.js":     {kind: "text/javascript; charset=utf-8", parts: of("view.js")},
		"draw.js":     {kind: "text/javascript; charset=utf-8", parts: of("draw.js")},
		"scene.json":  {kind: "application/json", parts: [][]byte{s.description}},
		"niivue.js":   {kind: "text/javascript; charset=utf-8", parts: [][]byte{drawing}, gzipped: true},
		"favicon.svg": {kind: "image/svg+xml", parts: of("favicon.svg")},
	}
	for i, v := range s.volumes {
		files[volumeURL(i)] = file{kind: "application/octet-stream", parts: [][]byte{v.head, v.pixels}}
	}
	return files
}
