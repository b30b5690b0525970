package infer

// Need is what sliding over one image takes.
type Need struct {
	Tiles    int   // places of the window that are computed, repeated ones each time, for one fold
	Repeated int   // of Tiles, those beyond the first time, at the borders of strips
	Strips   int   // 1, unless Config.MaxBytes is too little for a whole slab
	Passes   int   // patches that go through a network: tiles times mirror images times folds
	Bytes    int64 // sums of logits and weights, weight map, a batch's input and logits, a slab in hand
}

// Forecast tells what Slabs will need for an image of shape (c,z,y,x) with the networks of several
// folds. Bytes leaves out the caller's image, the networks' weights and the activations inside one
// forward pass. It is an error where cfg.MaxBytes is too little for the narrowest strip.
func Forecast(patch []int, classes, folds int, shape [4]int, cfg Config) (Need, error) {
	if err := cfg.check(patch, classes); err != nil {
		return Need{}, err
	}
	if err := checkShape(shape); err != nil {
		return Need{}, err
	}
	p, err := newPlan(patch, classes, folds, shape, cfg)
	if err != nil {
		return Need{}, err
	}
	tiles := p.tileCount()
	return Need{Tiles: tiles, Repeated: p.repeated, Strips: len(p.strips),
		Passes: tiles * folds << len(cfg.Mirror), Bytes: p.bytes}, nil
}
