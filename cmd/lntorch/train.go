package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
)

func newTrain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "train DATASET CONFIGURATION FOLD",
		Short: "trains or fine-tunes on preprocessed cases",
		Long: `train fine-tunes a pretrained model (-pretrained_weights) or trains from the start, on cases that nnU-Net or lntorch
preprocessed. DATASET is a number or a folder name, CONFIGURATION a key of the plans, FOLD a number or "all".

The result is nnU-Net's: <results>/<dataset>/<trainer>__<plans>__<configuration>/fold_<fold>/ with checkpoints, log,
progress.png and validation/; beside them run.json and TensorBoard events. Ctrl-C saves and ends; --c goes on from there,
to the same bits as without the interruption.

Where plans or training data are missing and the raw dataset is there, they are made first: the plans from the pretrained model, as lntorch adopt makes them, or
by nnU-Net's planner; the data as lntorch preprocess makes it, anew where a raw file has changed. A folder that nnU-Net preprocessed stays as it is.

Methods:
` + methodHelp() + `

Networks that a trainer (-tr) builds whatever the plans say:
` + networkHelp(),
		Example: `  lntorch train 102 3d_fullres 0 --method dgst -pretrained_weights model/checkpoint_final.pth
  lntorch train 102 3d_fullres 0 -tr nnUNetTrainer_DGST -pretrained_weights model/checkpoint_final.pth --head keep
  lntorch train 102 3d_phantom 0 -p nnUNetPlansAdopted -pretrained_weights model/checkpoint_final.pth    # from raw images
  lntorch train 102 3d_fullres all --method full --epochs 100 --iterations 50 -pretrained_weights FILE
  lntorch train 102 3d_fullres 0 -tr nnUNetTrainer_DGST --c`,
		Args: exactly("DATASET", "CONFIGURATION", "FOLD"),
		RunE: runTrain,
	}
	f := cmd.Flags()
	folders(cmd, "raw", "preprocessed", "results")
	f.String("trainer", "", "trainer class, names the result folder and chooses the method (nnU-Net: -tr); default: the method's")
	f.String("method", "", "fine-tuning method: "+strings.Join(methodNames(), ", "))
	f.String("plans", "nnUNetPlans", "name of the plans file, without .json (nnU-Net: -p)")
	f.String("pretrained-weights", "", "checkpoint to start from")
	f.String("head", string(train.HeadNNUNet), "segmentation heads of the pretrained weights: nnunet ("+models.SegLayers+" are reset, any other head goes along), reset, keep, "+
		"or extend (known classes go along, by name or number)")
	f.String("channels", string(train.ChannelsKeep), "input channels of the pretrained weights: keep (they must fit), or extend (known ones go along, others start at 0)")
	refineFlags(f)
	f.Bool("no-prepare", false, "do not plan and preprocess the raw dataset where training data is missing")
	f.Bool("c", false, "continue from the fold's checkpoint")
	f.Bool("val", false, "only the final validation, of checkpoint_final.pth")
	f.Bool("val-best", false, "final validation with checkpoint_best.pth")
	f.Bool("disable-checkpointing", false, "write no checkpoints")
	f.Int("epochs", 0, "epochs (default: the method's)")
	f.Int("iterations", 250, "iterations an epoch")
	f.Int("val-iterations", 0, "validation iterations an epoch (default: 50, fewer in proportion with fewer iterations)")
	f.Float64("lr", 0, "initial learning rate (default: the method's)")
	f.Float64("weight-decay", 3e-5, "weight decay")
	f.Float64("momentum", 0.99, "Nesterov momentum")
	f.Int("batch-size", 0, "batch size (default: the plans')")
	f.IntSlice("patch-size", nil, "patch size z,y,x (default: the plans')")
	f.Float64("oversample", 0.33, "part of a batch that must show foreground")
	f.Int("save-every", 1, "epochs between checkpoint_latest.pth")
	f.Bool("disable-tta", false, "final validation without mirroring")
	f.Bool("use-compressed", false, "accepted as in nnU-Net; lntorch reads .npz directly and never unpacks")
	f.Bool("npz", false, "accepted as in nnU-Net; validation always writes .npz")
	f.Int("num-gpus", 1, "number of GPUs: 1")
	f.MarkHidden("use-compressed")
	f.MarkHidden("npz")
	f.MarkHidden("num-gpus")
	machineFlags(cmd, "cpu")
	f.Uint64("seed", 0, "seed of weights, batches and dropout")
	f.Int("workers", 0, "goroutines that prepare batches (default: the cores, four at most)")
	f.Bool("recompute", false, "compute activations again in the backward pass: less memory, more time (not for every network; MONAI's use_checkpoint)")
	f.Bool("deterministic", false, "on CUDA: algorithms that give the same bits every time (slower)")
	methodFlags(cmd)
	return cmd
}

// refineFlags adds what changes the parameters that a method trains.
func refineFlags(f *pflag.FlagSet) {
	f.StringSlice("train", nil, "parameters that train too, as a glob over whole names such as 'encoder.stages.0.*'; may be given several times")
	f.StringSlice("freeze", nil, "parameters that do not train, likewise; has the last word")
}

func readRefine(f *pflag.FlagSet) (r finetune.Refine) {
	r.Train, _ = f.GetStringSlice("train")
	r.Freeze, _ = f.GetStringSlice("freeze")
	return r
}

// machineFlags adds where and how operators run.
func machineFlags(cmd *cobra.Command, device string) {
	f := cmd.Flags()
	f.String("device", device, "cpu, cuda or cuda:N")
	f.Int("threads", 0, "threads of libtorch's operators (default: all cores)")
	f.String("numerics", "fast", "fast, or reference: the reference's operators in its order")
	f.String("amp", "auto", "mixed precision: auto (fp16 on CUDA, none on the CPU), off, fp16, bf16")
}

type machine struct {
	device    torch.Device
	threads   int
	reference bool
	amp       train.AMP
}

func readMachine(cmd *cobra.Command) (machine, error) {
	f := cmd.Flags()
	var m machine
	name, _ := f.GetString("device")
	var err error
	if m.device, err = torch.ParseDevice(name); err != nil {
		return m, usage(cmd, err)
	}
	m.threads, _ = f.GetInt("threads")
	numerics, _ := f.GetString("numerics")
	if numerics != "fast" && numerics != "reference" {
		return m, usage(cmd, fmt.Errorf("--numerics %q: expected fast or reference", numerics))
	}
	m.reference = numerics == "reference"
	amp, _ := f.GetString("amp")
	m.amp = train.AMP(amp)
	if !slices.Contains([]train.AMP{train.AMPAuto, train.AMPOff, train.AMPFP16, train.AMPBF16}, m.amp) {
		return m, usage(cmd, fmt.Errorf("--amp %q: expected auto, off, fp16 or bf16", amp))
	}
	return m, nil
}

func methodNames() []string {
	var names []string
	for _, e := range finetune.Entries() {
		names = append(names, e.Name)
	}
	return names
}

func methodHelp() string {
	var b strings.Builder
	for _, e := range finetune.Entries() {
		fmt.Fprintf(&b, "  %-6s  %s; %d epochs, lr %g (%s)\n", e.Name, e.Summary, e.Epochs, e.LR, e.Trainer)
	}
	return strings.TrimRight(b.String(), "\n")
}

// networkHelp has a line for each network that plans do not describe.
func networkHelp() string {
	var b strings.Builder
	for _, e := range models.Entries() {
		if e.Trainer != "" {
			fmt.Fprintf(&b, "  %-25s  %s; %d epochs, lr %g\n", e.Trainer, e.Summary, e.Epochs, e.LR)
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

// methodFlags adds the options of every method under their own names.
func methodFlags(cmd *cobra.Command) {
	for _, e := range finetune.Entries() {
		for _, o := range e.Options {
			help := o.Help
			if o.Values != nil {
				help += ": " + strings.Join(o.Values, ", ")
			}
			cmd.Flags().String(o.Name, o.Default, help)
			if slices.Equal(o.Values, []string{"false", "true"}) {
				cmd.Flags().Lookup(o.Name).NoOptDefVal = "true" // a switch
			}
		}
	}
}

// makeMethod builds a method with the options given for it; an option of another method is an error.
func makeMethod(cmd *cobra.Command, entry finetune.Entry) (finetune.Method, map[string]any, error) {
	values, set := finetune.Values{}, map[string]any{}
	for _, e := range finetune.Entries() {
		for _, o := range e.Options {
			value, err := cmd.Flags().GetString(o.Name)
			if err != nil {
				return nil, nil, err
			}
			if e.Name == entry.Name {
				values[o.Name], set[o.Name] = value, value
				continue
			}
			// A file or the environment may hold settings for several methods.
			if f := cmd.Flags().Lookup(o.Name); f.Changed && f.Annotations[sourceNote] == nil {
				return nil, nil, usage(cmd, fmt.Errorf("--%s belongs to method %s, not to %s", o.Name, e.Name, entry.Name))
			}
		}
	}
	m, err := entry.Make(values)
	if err != nil {
		return nil, nil, usage(cmd, err)
	}
	return m, set, nil
}

// stockEpochs is what nnU-Net trains from the start.
const stockEpochs = 1000

var epochsTrainer = regexp.MustCompile(`^nnUNetTrainer_([0-9]+)epochs?$`)

// chooseMethod finds the method, the trainer's name and its number of epochs from --method and --trainer.
func chooseMethod(method, trainer string, pretrained bool) (finetune.Entry, string, error) {
	byTrainer := func(name string) (finetune.Entry, bool) {
		for _, e := range finetune.Entries() {
			if e.Trainer == name {
				return e, true
			}
		}
		return finetune.Entry{}, false
	}
	if method != "" {
		e, err := finetune.Lookup(method)
		if err != nil {
			return e, "", err
		}
		if trainer == "" {
			trainer = e.Trainer
		} else if other, ok := byTrainer(trainer); ok && other.Name != e.Name {
			return e, "", fmt.Errorf("-tr %s is the trainer of method %s, but --method is %s", trainer, other.Name, method)
		}
		if e.Stock && !pretrained {
			e.Epochs = stockEpochs
		}
		if n, ok := models.ByTrainer(trainer); ok && e.Trainer == "nnUNetTrainer" {
			e.LR, e.Epochs = n.LR, n.Epochs
		}
		return e, trainer, nil
	}
	stock, err := finetune.Stock()
	if err != nil {
		return stock, "", err
	}
	if trainer == "" {
		trainer = stock.Trainer
	}
	if m := epochsTrainer.FindStringSubmatch(trainer); m != nil {
		n, err := strconv.Atoi(m[1])
		stock.Epochs = n
		return stock, trainer, err
	}
	if n, ok := models.ByTrainer(trainer); ok { // stock training of another network
		stock.LR, stock.Epochs = n.LR, n.Epochs
		return stock, trainer, nil
	}
	e, ok := byTrainer(trainer)
	if !ok {
		known := models.Trainers()
		for _, e := range finetune.Entries() {
			known = append(known, e.Trainer)
		}
		return e, "", fmt.Errorf("trainer %s is not known; known: %s, nnUNetTrainer_Nepochs; or give --method, which may have any -tr name", trainer, strings.Join(known, ", "))
	}
	if e.Name == stock.Name && !pretrained {
		e.Epochs = stockEpochs
	}
	return e, trainer, nil
}

// trainConfig reads everything that train and validate share.
func trainConfig(cmd *cobra.Command, args []string) (train.Config, error) {
	f := cmd.Flags()
	var c train.Config
	preprocessed, err := folder(cmd, "preprocessed")
	if err != nil {
		return c, err
	}
	rawFolder, _ := f.GetString("raw")
	results, _ := f.GetString("results")
	name, err := raw.FindName(args[0], preprocessed, rawFolder, results)
	if err != nil {
		return c, err
	}
	c.Preprocessed = filepath.Join(preprocessed, name)
	if err := preparable(cmd, c.Preprocessed, rawFolder, name); err != nil {
		return c, err
	}
	c.Results, c.Configuration, c.Fold = results, args[1], args[2]
	c.PlansName, _ = f.GetString("plans")
	c.PatchSize, _ = f.GetIntSlice("patch-size")
	if len(c.PatchSize) == 0 {
		c.PatchSize = nil
	}
	c.NoMirroring, _ = f.GetBool("disable-tta")
	m, err := readMachine(cmd)
	if err != nil {
		return c, err
	}
	c.Device, c.Threads, c.Reference, c.AMP = m.device, m.threads, m.reference, m.amp
	c.Version = version
	con := newConsole(cmd)
	c.Echo, c.Progress = con, con
	return c, nil
}

func runTrain(cmd *cobra.Command, args []string) error {
	f := cmd.Flags()
	if n, _ := f.GetInt("num-gpus"); n != 1 {
		return usage(cmd, fmt.Errorf("-num_gpus %d: lntorch trains on one GPU", n))
	}
	if _, err := folder(cmd, "results"); err != nil {
		return err
	}
	c, err := trainConfig(cmd, args)
	if err != nil {
		return err
	}
	method, _ := f.GetString("method")
	trainer, _ := f.GetString("trainer")
	c.Pretrained, _ = f.GetString("pretrained-weights")
	entry, name, err := chooseMethod(method, trainer, c.Pretrained != "")
	if err != nil {
		return usage(cmd, err)
	}
	c.Trainer, c.MethodName = name, entry.Name
	if c.Method, c.Settings, err = makeMethod(cmd, entry); err != nil {
		return err
	}
	head, _ := f.GetString("head")
	channels, _ := f.GetString("channels")
	c.Head, c.Channels, c.Refine = train.Head(head), train.Channels(channels), readRefine(f)
	c.Continue, _ = f.GetBool("c")
	c.ValidateOnly, _ = f.GetBool("val")
	c.ValidateBest, _ = f.GetBool("val-best")
	c.DisableCheckpointing, _ = f.GetBool("disable-checkpointing")
	c.Epochs, c.LR = entry.Epochs, entry.LR
	if f.Changed("epochs") {
		c.Epochs, _ = f.GetInt("epochs")
	}
	if f.Changed("lr") {
		c.LR, _ = f.GetFloat64("lr")
	}
	c.Iterations, _ = f.GetInt("iterations")
	c.ValIterations, _ = f.GetInt("val-iterations")
	c.WeightDecay, _ = f.GetFloat64("weight-decay")
	c.Momentum, _ = f.GetFloat64("momentum")
	c.Oversample, _ = f.GetFloat64("oversample")
	c.BatchSize, _ = f.GetInt("batch-size")
	c.SaveEvery, _ = f.GetInt("save-every")
	c.Seed, _ = f.GetUint64("seed")
	c.Workers, _ = f.GetInt("workers")
	c.Deterministic, _ = f.GetBool("deterministic")
	c.Recompute, _ = f.GetBool("recompute")
	if err := prepareTraining(cmd, c); err != nil {
		return err
	}
	result, err := train.Run(cmd.Context(), c)
	if err != nil {
		return err
	}
	fmt.Printf("checkpoint  %s\nvalidation  %s\nmean Dice   %.4f (on the preprocessed grid)\n", result.Checkpoint, result.Validation, result.Dice)
	return nil
}
