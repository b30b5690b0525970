package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/train"
)

func newTrace() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace --checkpoint FILE --batches FOLDER -o FOLDER",
		Short: "trains a few steps on given batches and writes losses, gradients, masks and weights",
		Long: `trace takes every weight of a checkpoint as it is (heads too) and makes one optimizer step for each batch of a folder:
batch_NN_data.npy (float32, n c z y x) and batch_NN_target_K.npy (K = level of deep supervision, 0 = full resolution).
The learning rate of step i of n is lr·(1-i/n)^0.9. It writes losses.json, first_gradients.npz (step 0, before clipping),
final.pth and, for methods with masks, mask.npz: how a team proves that two stacks agree.`,
		Example: `  lntorch trace --checkpoint model/fold_0/checkpoint_final.pth --batches batches --method dgst -o out
  lntorch trace --checkpoint c.pth --plans nnUNetPlans.json --dataset-json dataset.json --configuration 3d_fullres --batches b --method full -o out`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f := cmd.Flags()
			var c train.TraceConfig
			c.Checkpoint, _ = f.GetString("checkpoint")
			c.Batches, _ = f.GetString("batches")
			c.Output, _ = f.GetString("output")
			if c.Checkpoint == "" || c.Batches == "" || c.Output == "" {
				return usage(cmd, fmt.Errorf("--checkpoint, --batches and -o must be given"))
			}
			var err error
			if c.Plans, c.Dataset, c.Configuration, err = readPlans(cmd, c.Checkpoint); err != nil {
				return err
			}
			method, _ := f.GetString("method")
			entry, _, err := chooseMethod(method, "", true)
			if err != nil {
				return usage(cmd, err)
			}
			c.MethodName, c.LR = entry.Name, entry.LR
			if c.Method, _, err = makeMethod(cmd, entry); err != nil {
				return err
			}
			if f.Changed("lr") {
				c.LR, _ = f.GetFloat64("lr")
			}
			c.WeightDecay, _ = f.GetFloat64("weight-decay")
			c.Momentum, _ = f.GetFloat64("momentum")
			m, err := readMachine(cmd)
			if err != nil {
				return err
			}
			c.Device, c.Threads, c.AMP, c.Reference = m.device, m.threads, m.amp, m.reference
			c.Refine = readRefine(f)
			c.Seed, _ = f.GetUint64("seed")
			c.Progress = newConsole(cmd)
			if err := train.Trace(cmd.Context(), c); err != nil {
				return err
			}
			fmt.Println(c.Output)
			return nil
		},
	}
	f := cmd.Flags()
	plansFlags(cmd)
	f.String("batches", "", "folder of batches")
	f.StringP("output", "o", "", "folder for the results")
	f.String("method", "", "fine-tuning method: "+strings.Join(methodNames(), ", ")+" (default: nnU-Net's own training)")
	refineFlags(f)
	f.Uint64("seed", 0, "seed of methods that draw random numbers")
	f.Float64("lr", 0, "initial learning rate (default: the method's)")
	f.Float64("weight-decay", 3e-5, "weight decay")
	f.Float64("momentum", 0.99, "Nesterov momentum")
	machineFlags(cmd, "cpu")
	methodFlags(cmd)
	return cmd
}

func plansFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("checkpoint", "", "checkpoint of nnU-Net or lntorch, or a bare state dict")
	f.String("plans", "", "plans.json (default: the one inside the checkpoint)")
	f.String("dataset-json", "", "dataset.json (default: the one inside the checkpoint)")
	f.String("configuration", "", "configuration (default: the checkpoint's)")
}

// readPlans finds plans, dataset.json and configuration: from flags, else from the checkpoint.
func readPlans(cmd *cobra.Command, path string) (*plans.Plans, *plans.Dataset, string, error) {
	f := cmd.Flags()
	ck, err := checkpoint.Open(path)
	if err != nil {
		return nil, nil, "", err
	}
	defer ck.Close()
	p, d, conf := ck.Plans, ck.Dataset, ck.Configuration
	if file, _ := f.GetString("plans"); file != "" {
		if p, err = plans.Load(file); err != nil {
			return nil, nil, "", err
		}
	}
	if file, _ := f.GetString("dataset-json"); file != "" {
		if d, err = plans.LoadDataset(file); err != nil {
			return nil, nil, "", err
		}
	}
	if name, _ := f.GetString("configuration"); name != "" {
		conf = name
	}
	var missing []string
	if p == nil {
		missing = append(missing, "--plans")
	}
	if d == nil {
		missing = append(missing, "--dataset-json")
	}
	if conf == "" {
		missing = append(missing, "--configuration")
	}
	if missing != nil {
		if err := ck.Understood(checkpoint.KeyPlans, checkpoint.KeyDataset, checkpoint.KeyConfiguration); err != nil {
			return nil, nil, "", fmt.Errorf("%w; or give %s", err, strings.Join(missing, ", "))
		}
		return nil, nil, "", fmt.Errorf("%s does not hold plans, dataset.json and configuration, as nnU-Net's checkpoints do: give %s", path, strings.Join(missing, ", "))
	}
	return p, d, conf, nil
}
