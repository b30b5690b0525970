package report

import (
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
)

// writePNG writes the image through a temporary file beside path, so that
// whoever looks at path while a training rewrites it sees a whole picture.
func writePNG(path string, img image.Image) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".png-*")
	if err != nil {
		return fmt.Errorf("report: write %s: %w", path, err)
	}
	encoder := png.Encoder{CompressionLevel: png.BestSpeed}
	err = encoder.Encode(f, img)
	for _, finish := range []func() error{func() error { return f.Chmod(0o644) }, f.Close} {
		if e := finish(); err == nil {
			err = e
		}
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("report: write %s: %w", path, err)
	}
	return nil
}
