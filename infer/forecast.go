package infer

// Need is the work and memory of inference on one image.
type Need struct {
	Tiles    int // tiles computed per fold, including repeated ones
	Repeated int // of Tiles, those computed again at the borders of strips
	Strips   int // 1, unless Config.MaxBytes is too little for a whole slab
	Passes   int // patches run through a network: tiles × mirror images × folds
	Batch    int // patches run through it together
	Switches int // times that the fold's network is asked for (NewEnsemble)
	// Bytes is the memory of the sums of logits and weights, the weight map, one batch's input and
	// logits, and an emitted slab.
	Bytes int64
}

// Forecast returns the work and memory of Slabs for an image of shape (c,z,y,x) and the given
// number of folds. Bytes excludes the image itself, the networks' weights and the activations of a
// forward pass. It fails if cfg.MaxBytes is below the need of the narrowest strip.
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
		Passes:   tiles * folds << len(cfg.Mirror),
		Batch:    cfg.batch(),
		Switches: 1 + p.rows()*(folds-1), Bytes: p.bytes}, nil
}
