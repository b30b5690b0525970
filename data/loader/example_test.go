package loader_test

import (
	"context"
	"fmt"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/data/plans"
)

func Example() {
	folder := "../../testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget/"
	description, err := plans.LoadDataset(folder + "dataset.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	cases, err := dataset.Open(folder + "nnUNetPlansSource_3d_fullres")
	if err != nil {
		fmt.Println(err)
		return
	}
	fold, err := dataset.Fold(folder+"splits_final.json", cases.Keys(), "0")
	if err != nil {
		fmt.Println(err)
		return
	}
	setting := augment.Setting{PatchSize: []int{16, 48, 48}, Channels: 1,
		Scales: [][]float64{{1, 1, 1}, {1, 0.5, 0.5}}}
	setting.SetClasses(description.Labels)
	list, err := augment.New(setting)
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := loader.New(loader.Config{
		Dataset: cases, Keys: fold.Train, Labels: description.Labels,
		BatchSize: 2, PatchSize: []int{16, 48, 48}, Oversample: 0.33,
		Augmentation: list, Seed: 1, Stream: "train",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	batch, err := l.Next(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(fold.Train, batch.DataShape, batch.Targets[0].Shape, batch.Targets[1].Shape)
	batch.Release()
	// Output:
	// [LN_000 LN_001] [2 1 16 48 48] [2 1 16 48 48] [2 1 16 24 24]
}
