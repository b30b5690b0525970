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
)

// Maker is a program that fills folders of preprocessed cases.
type Maker int

// Nobody has made a folder that is missing or empty. Unknown has made one of which it cannot be shown who did.
const (
	Nobody Maker = iota
	Lntorch
	NNUNet       // .npz, as nnU-Net up to 2.5 writes
	NNUNetBlosc2 // .b2nd, as nnU-Net from 2.6 on writes
	Unknown
)

// Owner says who made what is in a folder of preprocessed cases. lntorch writes where Maker is Nobody or Lntorch.
type Owner struct {
	Maker   Maker
	Folder  string
	Example string   // a file that shows it, if it is neither Nobody's nor Lntorch's
	Ours    []string // names of the cases that lntorch made, sorted; there may be some beside another program's

	keys map[string]string // of those whose .npz is whole
}

// FindOwner looks at every file of a folder. Of lntorch's own .npz the comment tells, of a .pkl the mark behind the pickle. One
// file that another program made makes the folder that program's; hidden files do not count. Files that are empty or cut off
// belong to the others, unless there are none.
func FindOwner(folder string) (Owner, error) {
	o := Owner{Folder: folder, keys: map[string]string{}}
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return o, err
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
	}
	ours := map[string]bool{}
	theirs := map[Maker]string{} // an example of each
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
			if there[name+".npz"] || there[name+".b2nd"] {
				continue // these tell
			}
			maker = pklMaker(filepath.Join(folder, file))
		case ".npy":
			if base := strings.TrimSuffix(name, "_seg"); there[name+".npz"] || there[base+".npz"] || there[name+".pkl"] || there[base+".pkl"] {
				continue // training unpacked it
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

// damaged is for files that do not show who made them and that nobody can use as a case: empty ones, cut-off ones, others.
const damaged Maker = -1

// npzMaker is who made NAME.npz, and lntorch's mark in it.
func npzMaker(folder, name string) (string, Maker) {
	path := filepath.Join(folder, name+".npz")
	f, err := os.Open(path)
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
	// A zip that is cut off has lost its comment.
	pkl := filepath.Join(folder, name+".pkl")
	if _, err := os.Stat(pkl); errors.Is(err, fs.ErrNotExist) {
		return "", damaged
	}
	return "", pklMaker(pkl)
}

// pklMaker is who made the properties of a case.
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

// Refusal is why lntorch writes nothing into the folder, and what to do; nil where it does.
func (o Owner) Refusal() error {
	var what string
	switch o.Maker {
	case Nobody, Lntorch:
		return nil
	case NNUNetBlosc2:
		what = "holds cases that nnU-Net 2.6 or newer preprocessed"
	case NNUNet:
		what = "holds cases that nnU-Net preprocessed, not lntorch"
	default:
		what = "holds files that lntorch did not make"
	}
	beside := ""
	if n := len(o.Ours); n > 0 {
		beside = fmt.Sprintf(", beside %d of lntorch's", n)
	}
	way := "if they may go, delete or rename the folder yourself; otherwise plan under another name, for a folder of its own"
	if o.Maker == NNUNet {
		way = "train takes them as they are; " + way
	}
	return fmt.Errorf("%s %s (such as %s%s), and is left alone: %s", o.Folder, what, o.Example, beside, way)
}
