// Package arch holds the rules of the source tree as data; its test enforces them. Not used at run
// time.
package arch

// A Rule gives a package's level: it may import packages of the module with a lower level, and
// those in Also. Tests may also import packages of the same level and the test support in internal.
type Rule struct {
	Path  string // relative to the module path; a trailing "/..." also covers what is below
	Level int    // data flows from level 0 up to the program at level 5
	// if not nil, the only packages of the module that it may import; "/..." as in Path
	Only []string
	Also []string // packages of the same level that it may import
	// must work without libtorch: package torch may not be imported, not even indirectly
	NoTorch bool
}

// Rules has an entry for every package of the module; a missing one fails the test.
var Rules = []Rule{
	{Path: "volume", Level: 0, Only: []string{"internal/bits"}, NoTorch: true},
	{Path: "formats/image", Level: 1, NoTorch: true},
	{Path: "formats/dicom/openjpeg", Level: 0, Only: []string{"formats/dicom/codec",
		"internal/sharedlib"}, NoTorch: true},
	{Path: "formats/dicom/...", Level: 0, Only: []string{"volume", "formats/dicom/...",
		"formats/internal/...", "internal/bits", "internal/regular", "internal/sniff"}, NoTorch: true},
	{Path: "formats/...", Level: 0, Only: []string{"volume", "formats/pickle", "formats/pth",
		"formats/safetensors", "formats/internal/...", "internal/atomicfile", "internal/bits",
		"internal/regular", "internal/sniff"}, NoTorch: true},
	{Path: "torch", Level: 0, Only: []string{"internal/bits", "internal/sharedlib"}},
	{Path: "eval/pynum", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/bits", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/brief", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/atomicfile", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/system", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/settings", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/machine", Level: 1,
		Only: []string{"torch", "internal/settings", "internal/system"}},
	{Path: "internal/launch", Level: 1, Only: []string{"internal/settings"}, NoTorch: true},
	{Path: "internal/nearest", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/regular", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/sharedlib", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/sniff", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/filehash", Level: 0, Only: []string{"internal/atomicfile", "internal/regular"}, NoTorch: true},
	{Path: "internal/folderlock", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "internal/mt19937", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "data/augment/internal/vector", Level: 0, Only: []string{}, NoTorch: true},

	{Path: "torch/nn", Level: 1, Only: []string{"torch"}},
	{Path: "torch/dist", Level: 1, Only: []string{"torch", "internal/brief"}},
	{Path: "torch/optim", Level: 1, Only: []string{"torch"}},
	{Path: "torch/interop", Level: 1, Only: []string{"torch"}},
	{Path: "data/images", Level: 2, NoTorch: true},
	{Path: "data/plans", Level: 1, Only: []string{"internal/atomicfile", "internal/brief", "internal/regular",
		"internal/sniff"}, NoTorch: true},

	{Path: "data/pairing", Level: 0, Only: []string{}, NoTorch: true},
	{Path: "models", Level: 2, Only: []string{"torch", "torch/nn", "data/plans"}},
	{Path: "loss", Level: 2, Only: []string{"torch"}},
	{Path: "checkpoint", Level: 2},
	{Path: "data/preprocess", Level: 2, Also: []string{"data/images", "data/raw"}, NoTorch: true},
	{Path: "data/raw", Level: 2, Also: []string{"data/images"}, NoTorch: true},

	{Path: "data/cases", Level: 3, NoTorch: true},
	{Path: "data/dataset", Level: 3, NoTorch: true},
	{Path: "data/fingerprint", Level: 3, NoTorch: true},
	{Path: "data/planner", Level: 3, Also: []string{"data/fingerprint"}, NoTorch: true},
	{Path: "data/augment", Level: 3, NoTorch: true},
	{Path: "data/loader", Level: 3, Also: []string{"data/dataset", "data/augment"}, NoTorch: true},
	{Path: "delta", Level: 3},
	{Path: "train/ondevice", Level: 3, Only: []string{"torch", "volume", "data/augment"},
		Also: []string{"data/augment"}},
	{Path: "finetune", Level: 3, Only: []string{"torch", "torch/nn", "torch/optim"}},
	{Path: "infer", Level: 3, Also: []string{"data/dataset"}},
	{Path: "segment", Level: 3, Also: []string{"infer"}},
	{Path: "eval/labelmap", Level: 3, Also: []string{"eval"}, NoTorch: true},
	{Path: "eval/components", Level: 3, Also: []string{"eval/mask"}, NoTorch: true},
	{Path: "eval/nodes", Level: 3, Also: []string{"eval/components", "eval/mask"}, NoTorch: true},
	{Path: "eval/surface", Level: 3, Also: []string{"eval/mask"}, NoTorch: true},
	{Path: "eval/scores", Level: 3, Also: []string{"eval", "eval/components", "eval/labelmap",
		"eval/mask", "eval/nodes", "eval/surface"}, NoTorch: true},
	{Path: "eval/...", Level: 3, NoTorch: true},

	{Path: "dgst", Level: 4},
	{Path: "baselines", Level: 4},
	{Path: "report/page", Level: 4, Also: []string{"report"}},
	{Path: "report/...", Level: 4, Also: []string{"report/nnlog"}},
	{Path: "train", Level: 4, Also: []string{"report", "report/nnlog"}},
	{Path: "experiment/stats", Level: 1, Only: []string{"internal/mt19937"}, NoTorch: true},
	{Path: "experiment/table", Level: 4, Only: []string{"experiment/stats", "internal/brief",
		"internal/nearest", "report"}, Also: []string{"report"}, NoTorch: true},
	{Path: "experiment/figures", Level: 4, Only: []string{"experiment/stats", "experiment/table",
		"internal/regular"}, Also: []string{"experiment/table"}, NoTorch: true},
	{Path: "experiment/page", Level: 4, Only: []string{"experiment/figures", "experiment/table", "report",
		"report/page", "internal/brief"}, Also: []string{"experiment/figures", "experiment/table", "report", "report/page"},
		NoTorch: true},
	{Path: "view", Level: 4, NoTorch: true},
	{Path: "phantom", Level: 4, Only: []string{"data/plans", "formats/nifti", "volume",
		"internal/atomicfile"}, NoTorch: true},

	{Path: "pipeline", Level: 5},
	{Path: "experiment", Level: 5, Also: []string{"pipeline"}},
	{Path: "cmd/...", Level: 6},
	{Path: "internal/arch", Level: 5, Only: []string{}},
	{Path: "internal/bench", Level: 5, Also: []string{"pipeline"}},
	{Path: "internal/shimgen", Level: 5, Only: []string{}},
	{Path: "internal/golden", Level: 0, Only: []string{"formats/npz"}, NoTorch: true},
	{Path: "internal/browsertest", Level: 1, Only: []string{"internal/golden"}, NoTorch: true},
	{Path: "internal/torchtest", Level: 1, Only: []string{"torch", "internal/golden"}},
}

// Methods lists the packages of fine-tuning methods, which train and cmd may import only for
// registration.
var Methods = []string{"dgst", "baselines"}

// NetworkNames are parts of parameter names of networks. Like the class names, they may not appear
// in code outside package models, which uses the registry instead.
var NetworkNames = []string{"seg_layers", "swinViT", "all_modules", "transpconvs", "transp_conv",
	"decoder.encoder", "out.conv.conv"}

// NetworkNamesIn lists the packages and files where they may appear: the old form of plans and
// nnU-Net's planners name classes, and tolerances name the networks that they belong to.
var NetworkNamesIn = []string{"models", "data/plans/architecture.go", "data/planner/planner.go",
	"internal/golden", "internal/arch"}

// TestSupport lists the packages, of this and other modules, that only tests may import.
var TestSupport = []string{"internal/browsertest", "internal/golden", "internal/torchtest",
	"github.com/stretchr/testify/..."}

// Modules maps third-party packages to the packages that may import them.
var Modules = map[string][]string{
	"codeberg.org/go-fonts/...":           {"report/..."},
	"github.com/klauspost/compress/...":   {"formats/..."},
	"github.com/suyashkumar/dicom/...":    {"formats/dicom/..."},
	"github.com/wangkuiyi/gotorch/...":    {"torch/interop"},
	"github.com/schollz/progressbar/v3":   {"cmd/..."},
	"github.com/spf13/cobra":              {"cmd/..."},
	"github.com/spf13/pflag":              {"cmd/..."},
	"github.com/spf13/viper":              {"cmd/...", "experiment"},
	"github.com/pelletier/go-toml/v2/...": {"experiment"},
	"go.yaml.in/yaml/v3":                  {"experiment"},
	"github.com/stretchr/testify/...":     {"internal/golden", "internal/torchtest"},
	"golang.org/x/image/...":              {"report/..."},
	"golang.org/x/sys/...": {"torch", "formats/...", "checkpoint", "train",
		"internal/system", "pipeline", "experiment", "cmd/...", "data/augment/internal/vector"},
	"golang.org/x/term": {"cmd/..."},
	"gonum.org/v1/gonum/...": {"checkpoint", "data/...", "eval/...", "experiment/...",
		"report/..."},
	"gonum.org/v1/plot/...": {"report/...", "experiment/figures"},
}

// Unsafe lists the packages that may import "C" or "unsafe".
var Unsafe = []string{"torch", "torch/interop", "internal/bits", "formats/dicom/openjpeg"}

// A Call is a function that may not be called outside the packages and files in Except.
type Call struct {
	Package, Name string
	Why           string
	Except        []string // packages, files, or "_test.go" and "main" for tests and programs
}

// Calls lists the forbidden calls.
var Calls = []Call{
	{"runtime", "SetFinalizer", "tensors are freed with their scope; finalizers run on any " +
		"thread at any time", nil},
	{"runtime", "AddCleanup", "tensors are freed with their scope; cleanups run on any thread at " +
		"any time", nil},
	{"log", "Fatal", "return an error; only a program may end itself", []string{"main"}},
	{"log", "Fatalf", "return an error; only a program may end itself", []string{"main"}},
	{"log", "Fatalln", "return an error; only a program may end itself", []string{"main"}},
	{"os", "Exit", "return an error; only a program may end itself", []string{"main", "_test.go"}},
	{"os", "Getenv", "take a field of a config struct; cmd reads the environment", environment},
	{"os", "LookupEnv", "take a field of a config struct; cmd reads the environment", environment},
	{"os", "Environ", "take a field of a config struct; cmd reads the environment", environment},
}

var environment = []string{"main", "_test.go", "cmd/...", "torch/shim.go",
	"formats/dicom/openjpeg/library.go", "internal/golden", "internal/torchtest"}

// make golden runs all scripts in scripts/golden except these.
var (
	// run live by tests; they write no golden files
	LiveScripts = []string{"adopted.py", "augment_batches.py", "ddp.py", "ddp_training.py", "dicom_samples.py", "dicom_syntaxes.py", "full_size.py", "monai_surface.py", "nnunet_stack.py", "phantom_dataset.py", "prediction.py",
		"postprocess.py", "preprocess_datasets.py", "raw_datasets.py", "runs.py"}
	// imported by other scripts
	SharedScripts = []string{"stack.py"}
)

// BadNames are package names that say nothing.
var BadNames = []string{"util", "utils", "helper", "helpers", "common", "manager", "misc"}
