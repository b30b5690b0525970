package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lntorch/lntorch/internal/bench"
)

func newBench() *cobra.Command {
	var c bench.Config
	cmd := &cobra.Command{
		Use:   "bench PART",
		Short: "times parts of the program",
		Long: `bench prepares one part of the program's work on made-up data and repeats it. ` + "`make bench`" + ` sets the same parts beside the Python
stack, one repeat of each in turn.

  step    a training step: forward, loss, backward, clip, the method's choice, SGD
  update  the end of a step alone: the method's choice and SGD
  masks   a method's choice of entries for every sparse weight
  open    opening a checkpoint and reading its weights into the network
  window  sliding-window prediction of one image; --mirror 0,1,2 averages mirror images, too
  export  logits in a file to the segmentation of the image, as prediction writes it
  first   a training until its first iteration is over; then it says so and ends (to be timed from outside)
  tile    likewise a prediction until its first tile is over

loader and transforms, which are commands with flags of their own, time the batches of a training and single transforms.`,
		Example: `  lntorch bench step --network mid
  lntorch bench step --network mid --method dgst --amp bf16
  lntorch bench step --network full --patch-size 64,128,128 --repeats 1
  lntorch bench step --network resenc --device cuda --amp fp16 --steps 10
  lntorch bench step --network mid -device cpu -num_gpus 2 --threads 1 --json
  lntorch bench step --network full -device cuda --amp fp16 --scaling 64 --bandwidth 10
  lntorch bench masks --network full --json
  lntorch bench open --network full
  lntorch bench window --network phantom --patch-size 24,64,64
  lntorch bench tile --model nnUNetTrainer__nnUNetPlans__3d_fullres --input imagesTs
  lntorch bench first --preprocessed FOLDER/Dataset102_PhantomTarget --plans nnUNetPlansSource --configuration 3d_phantom`,
		Args: exactly("PART"),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, done, err := ranks(cmd.Context(), c.Config)
			if err != nil || done {
				return err
			}
			c.Part, c.World = args[0], w
			var given []string
			cmd.Flags().Visit(func(f *pflag.Flag) { given = append(given, f.Name) })
			return bench.Run(cmd.Context(), c, given, os.Stdin, os.Stdout, output(cmd))
		},
	}
	bind(cmd, &c)
	bindOptions(cmd, &c.Method)
	_, sizes := bench.Sizes()
	cmd.Flags().Lookup("network").Usage = strings.Join(sizes, ", ")
	cmd.AddCommand(newBenchLoader(), newBenchTransforms())
	return cmd
}

func newBenchLoader() *cobra.Command {
	var c bench.LoaderConfig
	cmd := &cobra.Command{
		Use:   "loader",
		Short: "times the batches of a training, against the clock or a simulated GPU",
		Long: `loader prepares the batches that train with the same flags and seed sees, and takes them as fast as they come. With --step-ms it
sleeps after each batch, as a GPU would compute: it shows what share of the time that GPU would wait, beside the arithmetic: the
cost of a patch × patches of a batch ÷ workers, against the step.

Times of read (cases and places, and cases that are not in memory), augment (transforms, with the reading of the patch) and targets
are those of workers, by the clock; processor time is that of the whole process. It needs no libtorch.`,
		Example: `  lntorch bench loader --preprocessed FOLDER/Dataset102_PhantomTarget --plans nnUNetPlansSource -c 3d_phantom
  lntorch bench loader --preprocessed FOLDER -c 3d_fullres --workers 4 --step-ms 100
  lntorch bench loader --preprocessed FOLDER -c 3d_fullres --patch-size 128,128,128 --workers 1 --augmentation mirror --json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.Loader(cmd.Context(), c, os.Stdout, output(cmd))
		},
	}
	bind(cmd, &c)
	return cmd
}

func newBenchTransforms() *cobra.Command {
	var c bench.TransformsConfig
	cmd := &cobra.Command{
		Use:   "transforms SPEC.json",
		Short: "times the application of given parameters to an image and its segmentation",
		Long: `transforms applies the parameters of SPEC, as lntorch augment apply reads them, to the same arrays again and again, and prints the
processor time of one application: a line of JSON for each repeat. It needs no libtorch.`,
		Example: `  lntorch bench transforms spec.json --data crop.npy --seg labels.npy`,
		Args:    exactly("SPEC.json"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Spec = args[0]
			return bench.Transforms(cmd.Context(), c, os.Stdin, os.Stdout)
		},
	}
	bind(cmd, &c)
	return cmd
}
