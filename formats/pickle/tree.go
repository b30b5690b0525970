package pickle

import (
	"errors"
	"fmt"
)

// identity identifies a shared object: values with equal identity are the same Python object. ok is
// false for values without an identity.
func identity(v any) (id any, ok bool) {
	switch v := v.(type) {
	case *List, *Dict, *OrderedDict, *DefaultDict, *Set, *NumpyArray, *NumpyScalar:
		return v, true
	case Tuple:
		if len(v) > 0 {
			return tupleID{&v[0], len(v)}, true
		}
	case []byte:
		if len(v) > 0 {
			return bytesID{&v[0], len(v)}, true
		}
	}
	return nil, false
}

type tupleID struct {
	first *any
	n     int
}

type bytesID struct {
	first *byte
	n     int
}

// children calls visit for each value directly inside v.
func children(v any, visit func(any) error) error {
	pairs := func(d *Dict) error {
		for _, e := range d.entries {
			if err := visit(e.key); err != nil {
				return err
			}
			if err := visit(e.value); err != nil {
				return err
			}
		}
		return nil
	}
	switch v := v.(type) {
	case Tuple:
		for _, x := range v {
			if err := visit(x); err != nil {
				return err
			}
		}
	case *List:
		for _, x := range v.Items {
			if err := visit(x); err != nil {
				return err
			}
		}
	case *Dict:
		return pairs(v)
	case *DefaultDict:
		return pairs(&v.Dict)
	case *OrderedDict:
		if err := pairs(&v.Dict); err != nil || v.Attrs == nil {
			return err
		}
		return visit(v.Attrs)
	case *Set:
		for _, e := range v.dict.entries {
			if err := visit(e.key); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkTree refuses results that a later walk would not finish or would spend too long on: cycles,
// deep nesting, and shared parts that multiply when the value is expanded to a tree ("billion
// laughs"). size is the size of the pickle.
func (d *Decoder) checkTree(root any, size int64) error {
	l := d.opts.Limits
	c := treeCheck{maxDepth: l.Depth, maxWeight: l.Memory/64 + d.pushed + size/32,
		seen: map[any]extent{}, charge: d.charge}
	_, err := c.visit(root, 0)
	return err
}

type extent struct {
	weight int64 // nodes when expanded, plus one for every 64 bytes of text and arrays
	height int
	open   bool
}

type treeCheck struct {
	maxDepth  int
	maxWeight int64
	seen      map[any]extent
	charge    func(bytes int) error
}

func (c *treeCheck) visit(v any, depth int) (extent, error) {
	if depth > c.maxDepth {
		return extent{}, fmt.Errorf("nested deeper than %d levels", c.maxDepth)
	}
	switch v := v.(type) {
	case Tuple, *List, *Dict, *OrderedDict, *DefaultDict, *Set:
	case string:
		return extent{weight: 1 + int64(len(v))/64}, nil
	case []byte:
		return extent{weight: 1 + int64(len(v))/64}, nil
	case ByteArray:
		return extent{weight: 1 + int64(len(v))/64}, nil
	case *NumpyArray:
		return extent{weight: 1 + int64(len(v.Data))/64}, nil
	case *NumpyScalar:
		return extent{weight: 1 + int64(len(v.Data))/64}, nil
	default:
		return extent{weight: 1}, nil
	}
	id, shared := identity(v)
	if shared {
		if e, ok := c.seen[id]; ok {
			if e.open {
				return e, fmt.Errorf("a %s contains itself", TypeName(v))
			}
			if depth+e.height > c.maxDepth {
				return e, fmt.Errorf("nested deeper than %d levels", c.maxDepth)
			}
			return e, nil
		}
		if err := c.charge(costNode); err != nil {
			return extent{}, err
		}
		c.seen[id] = extent{open: true}
	}
	e := extent{weight: 1}
	err := children(v, func(x any) error {
		sub, err := c.visit(x, depth+1)
		e.weight += sub.weight
		e.height = max(e.height, sub.height+1)
		if err == nil && e.weight > c.maxWeight {
			err = errors.New("shared parts expand to too many values (memo bomb)")
		}
		return err
	})
	if shared {
		c.seen[id] = e
	}
	return e, err
}
