package scores

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"

	"github.com/lntorch/lntorch/eval/nodes"
)

// Number is a score: null in JSON where it is undefined, which here is NaN.
type Number float64

// Defined reports whether there is a value.
func (n Number) Defined() bool { return !math.IsNaN(float64(n)) && !math.IsInf(float64(n), 0) }

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	if !n.Defined() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *Number) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		*n = Number(math.NaN())
		return nil
	}
	return json.Unmarshal(data, (*float64)(n))
}

// Metric is a score of a mask by name.
type Metric struct {
	Name  string
	Value Number
}

// Metrics are the scores of a mask in the order of their names; an object in JSON.
type Metrics []Metric

// Get returns a metric, NaN if it is not there.
func (m Metrics) Get(name string) Number {
	for _, v := range m {
		if v.Name == name {
			return v.Value
		}
	}
	return Number(math.NaN())
}

// Label is the scores of one label or region of a case.
type Label struct {
	Metrics   Metrics
	Empty     string                // which mask is: none, reference, prediction, both
	Detection map[string]*Detection // by Rule; nil if nodes were not measured
	Nodes     Nodes
	Excess    string // what there was no memory for; written nowhere

	tp, fp, fn int64 // voxels
}

// Measured reports whether nodes were measured. Where there was no memory for them, detection and nodes are null
// in JSON.
func (l *Label) Measured() bool { return l.Detection != nil }

// Forget makes nodes that were measured such that were not, for want of memory beside so many of other cases;
// distances stay.
func (l *Label) Forget(others int64) {
	l.Excess = excess(len(l.Nodes.Reference), len(l.Nodes.Prediction),
		fmt.Sprintf(", after %d in the cases before", others), "nodes are")
	l.Detection, l.Nodes = nil, Nodes{}
}

// excess says what was found, more of it, and what was left out.
func excess(reference, prediction int, more, what string) string {
	return fmt.Sprintf("%d nodes in the reference and %d in the prediction%s, more than there is memory for: %s not "+
		"measured, and in no mean or count", reference, prediction, more, what)
}

// Nodes are the nodes of both masks.
type Nodes struct {
	Reference  []Node `json:"reference"`
	Prediction []Node `json:"prediction"`
}

// Len is how many there are.
func (n Nodes) Len() int { return len(n.Reference) + len(n.Prediction) }

// Node is a component of a mask and what became of it by the headline rule.
type Node struct {
	Node      int        `json:"node"` // from 1, in the order of first voxels (z, y, x)
	Voxels    int64      `json:"voxels"`
	MM3       float64    `json:"volume_mm3"`
	LongAxis  float64    `json:"long_axis_mm"`
	ShortAxis float64    `json:"short_axis_mm"`
	SizeClass string     `json:"size_class"`
	Slice     int        `json:"slice"`
	Centroid  [3]float64 `json:"centroid_lps_mm"` // x, y, z
	Matched   bool       `json:"matched"`
	Match     *int       `json:"match"` // node of the other mask; null if not matched
	IoU       *float64   `json:"iou"`   // with it
	Dice      *float64   `json:"Dice"`
}

// Detection counts nodes that were found, missed and invented by one rule.
type Detection struct {
	nodes.Counts
	Recall    Number                `json:"recall"`
	Precision Number                `json:"precision"`
	F1        Number                `json:"F1"`
	BySize    map[string]*Detection `json:"by_size,omitempty"`
	// MissedMM3 and InventedMM3 are the volumes of nodes without a voxel in the other mask; of the
	// rule any alone.
	MissedMM3   *float64 `json:"fn_mm3,omitempty"`
	InventedMM3 *float64 `json:"fp_mm3,omitempty"`
}

// MarshalJSON writes the metrics first, in their order.
func (l *Label) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for _, m := range l.Metrics {
		value, err := m.Value.MarshalJSON()
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s,", m.Name, value)
	}
	nodes := &l.Nodes
	if !l.Measured() {
		nodes = nil
	}
	rest, err := json.Marshal(struct {
		Empty     string                `json:"empty"`
		Detection map[string]*Detection `json:"detection"`
		Nodes     *Nodes                `json:"nodes"`
	}{l.Empty, l.Detection, nodes})
	if err != nil {
		return nil, err
	}
	b.Write(rest[1:])
	return b.Bytes(), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (l *Label) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("scores of a label: expected an object")
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		switch key {
		case "empty":
			err = d.Decode(&l.Empty)
		case "detection":
			err = d.Decode(&l.Detection)
		case "nodes":
			err = d.Decode(&l.Nodes)
		default:
			m := Metric{Name: key.(string)}
			err = d.Decode(&m.Value)
			l.Metrics = append(l.Metrics, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Case is the scores of one case.
type Case struct {
	Case           string            `json:"case"`
	ReferenceFile  string            `json:"reference_file"`
	PredictionFile string            `json:"prediction_file"`
	Spacing        [3]float64        `json:"spacing_mm"` // z, y, x
	Labels         map[string]*Label `json:"labels"`     // by eval.Target.Key
}

// Failed is a case that could not be scored.
type Failed struct {
	Case           string `json:"case"`
	ReferenceFile  string `json:"reference_file"`
	PredictionFile string `json:"prediction_file"`
	Error          string `json:"error"`
}

// Mean is a metric over the cases where it is defined.
type Mean struct {
	Mean Number `json:"mean"`
	SD   Number `json:"sd"` // over n-1; undefined below two
	N    int    `json:"n"`
}

// Aggregate is what is computed from the voxels and nodes of all cases together.
type Aggregate struct {
	Dice      Number                `json:"Dice"`
	N         int                   `json:"n"` // cases whose nodes were measured: those of Detection
	Detection map[string]*Detection `json:"detection"`
}

// Scores is the content of scores.json.
type Scores struct {
	Version   int                        `json:"version"` // of the file's form
	Labels    map[string]string          `json:"labels"`  // names by eval.Target.Key
	Settings  Settings                   `json:"settings"`
	Cases     []*Case                    `json:"cases"`
	Mean      map[string]map[string]Mean `json:"mean"`
	Aggregate map[string]*Aggregate      `json:"aggregate"`
	Failed    []Failed                   `json:"failed"`
}
