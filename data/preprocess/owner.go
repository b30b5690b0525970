package preprocess

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/regular"
)

// Maker is the program that wrote a folder of preprocessed cases.
type Maker int

// Nobody is the maker of a folder that is missing or empty, Unknown of one that shows no known
// maker.
const (
	Nobody Maker = iota
	Lntorch
	NNUNet       // .npz, as written by nnU-Net up to 2.5
	NNUNetBlosc2 // .b2nd, as written by nnU-Net 2.6 and newer
	Unknown
)

// Owner describes a folder of preprocessed cases. lntorch writes to it if Maker is Nobody or
// Lntorch.
type Owner struct {
	Maker   Maker
	Folder  string
	Example string   // a file of the other program; "" for Nobody and Lntorch
	Ours    []string // sorted names of lntorch's cases, also if another program is the Maker

	keys map[string]string // cache keys of cases whose .npz is complete
}

// FindOwner inspects every file of a folder. lntorch's .npz files are recognised by their comment,
// its .pkl files by the cache key behind the pickle. A single file of another program makes it the
// maker; hidden files are ignored. Files that are empty or truncated count as the other files do,
// as Unknown if there are no others.
func FindOwner(folder string) (Owner, error) {
	o := Owner{Folder: folder, keys: map[string]string{}}
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return o, err
	}
	present := map[string]bool{}
	for _, e := range entries {
		present[e.Name()] = true
	}
	ours := map[string]bool{}
	theirs := map[Maker]string{} // an example file of each
	unclear := ""
	for _, e := range entries {
		file := e.Name()
		if strings.HasPrefix(file, ".") {
			continue
		}
		ending := filepath.Ext(file)
		name := strings.TrimSuffix(file, ending)
		maker := Unknown
		switch ending {
		case ".npz":
			var key string
			if key, maker = npzMaker(folder, name); key != "" {
				o.keys[name] = key
			}
		case ".pkl":
			if present[name+".npz"] || present[name+".b2nd"] {
				continue // these decide
			}
			maker = pklMaker(filepath.Join(folder, file))
		case ".npy":
			base := strings.TrimSuffix(name, "_seg")
			if present[name+".npz"] || present[base+".npz"] || present[name+".pkl"] ||
				present[base+".pkl"] {
				continue // unpacked by training
			}
			maker = damaged
		case ".b2nd":
			maker = NNUNetBlosc2
		default:
			maker = damaged
		}
		switch maker {
		case Lntorch:
			ours[name] = true
		case damaged:
			if unclear == "" {
				unclear = file
			}
		default:
			if theirs[maker] == "" {
				theirs[maker] = file
			}
		}
	}
	for name := range ours {
		o.Ours = append(o.Ours, name)
	}
	slices.Sort(o.Ours)
	for _, m := range []Maker{NNUNetBlosc2, NNUNet, Unknown} {
		if o.Example = theirs[m]; o.Example != "" {
			o.Maker = m
			return o, nil
		}
	}
	switch {
	case len(ours) > 0:
		o.Maker = Lntorch
	case unclear != "":
		o.Maker, o.Example = Unknown, unclear
	}
	return o, nil
}

// damaged is the maker of files that show none and are not usable as a case: empty, truncated,
// other.
const damaged Maker = -1

// npzMaker returns the maker of NAME.npz, and the cache key if that is lntorch.
func npzMaker(folder, name string) (string, Maker) {
	path := filepath.Join(folder, name+".npz")
	f, err := regular.Open(path)
	if err != nil {
		return "", Unknown
	}
	f.Close()
	key, err := npz.Comment(path)
	switch {
	case err == nil && strings.HasPrefix(key, keyPrefix):
		return key, Lntorch
	case err == nil:
		return "", NNUNet
	}
	// A truncated zip has lost its comment.
	pkl := filepath.Join(folder, name+".pkl")
	if _, err := os.Stat(pkl); errors.Is(err, fs.ErrNotExist) {
		return "", damaged
	}
	return "", pklMaker(pkl)
}

// pklMaker returns the maker of a case's properties.
func pklMaker(path string) Maker {
	key, two, err := pklKey(path)
	switch {
	case err != nil:
		return Unknown
	case key != "" || two:
		return Lntorch
	}
	if _, err := pickle.ReadFile(path); err != nil {
		return damaged
	}
	return Unknown
}

// Refusal is the error that explains why lntorch does not write to the folder and what to do, or
// nil.
func (o Owner) Refusal() error {
	var what string
	switch o.Maker {
	case Nobody, Lntorch:
		return nil
	case NNUNetBlosc2:
		what = "holds cases preprocessed by nnU-Net 2.6 or newer"
	case NNUNet:
		what = "holds cases preprocessed by nnU-Net, not by lntorch"
	default:
		what = "holds files that were not written by lntorch"
	}
	beside := ""
	if n := len(o.Ours); n > 0 {
		beside = fmt.Sprintf(", beside %d cases of lntorch", n)
	}
	way := "if they are no longer needed, delete or rename the folder yourself; otherwise plan " +
		"under another " +
		"name, which gets its own folder"
	if o.Maker == NNUNet {
		way = "train can use them as they are; " + way
	}
	return fmt.Errorf("%s %s (such as %s%s); nothing was changed: %s", o.Folder, what, o.Example,
		beside, way)
}
