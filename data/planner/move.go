package planner

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
)

// Move copies the plans called name from the preprocessed dataset in folder to the one in target,
// renamed to newName unless that is empty. The copy has the new dataset's name and the reader that
// opens its images. A new name is also used in the data identifiers, so that the data of different
// plans have different folders. Move returns the path of the new file.
// Source: nnU-Net 2.5.1, move_plans_between_datasets.py.
func Move(folder, name string, to *raw.Dataset, target, newName string) (string, error) {
	path, err := move(folder, name, to, target, newName)
	if err != nil {
		return "", fmt.Errorf("planner: %w", err)
	}
	return path, nil
}

func move(folder, name string, to *raw.Dataset, target, newName string) (string, error) {
	p, err := plans.Load(filepath.Join(folder, name+".json"))
	if err != nil {
		return "", err
	}
	doc := p.Raw().Clone()
	doc.Set("dataset_name", to.Name)
	if newName == "" {
		newName = name
	}
	if newName != name {
		v, _ := doc.Get("configurations")
		configurations := v.(*plans.Object)
		for _, c := range configurations.Keys() {
			v, _ := configurations.Get(c)
			configuration, _ := v.(*plans.Object)
			v, ok := configuration.Get("data_identifier")
			if !ok {
				continue
			}
			identifier, ok := v.(string)
			if !ok {
				return "", fmt.Errorf("%s: configuration %s: data_identifier: expected a string, "+
					"found %v",
					filepath.Join(folder, name+".json"), c, v)
			}
			if rest, ok := strings.CutPrefix(identifier, name); ok {
				configuration.Set("data_identifier", newName+rest)
			} else {
				configuration.Set("data_identifier", newName+"_"+identifier)
			}
		}
	}
	reader, err := to.AnyReader()
	if err != nil {
		return "", err
	}
	doc.Set("image_reader_writer", reader.Name())
	doc.Set("plans_name", newName)
	path := filepath.Join(target, newName+".json")
	return path, plans.WriteJSON(path, doc, false)
}
