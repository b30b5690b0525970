package train

import "github.com/lntorch/lntorch/data/images"

// orientations counts the orientations of the training images, as images.Orientation names them, for
// run.json: prediction warns of images that run another way. Cases whose properties do not tell are
// left out.
func (t *trainer) orientations() map[string]int {
	if t.seen != nil {
		return t.seen
	}
	t.seen = map[string]int{}
	for _, key := range t.data.Split.Train {
		d, _, err := t.data.Cases.Properties(key)
		if err != nil {
			continue
		}
		p, err := images.FromDict(d)
		if err != nil {
			continue
		}
		if p.Nibabel != nil && p.Nibabel.Reoriented != nil {
			continue // read as RAS whatever the file's orientation
		}
		if name, err := p.Orientation(); err == nil {
			t.seen[name]++
		}
	}
	return t.seen
}
