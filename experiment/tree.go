package experiment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// A node is a value of a file with the line that it is on. A table keeps the order and the case of
// its keys, which viper's maps lose.
type node struct {
	kind    kind
	line    int
	text    string  // of a scalar
	list    []*node // of a list
	entries []entry // of a table
}

type kind int

const (
	scalarNode kind = iota
	nullNode        // a key without a value
	listNode
	tableNode
)

func (k kind) String() string {
	return [...]string{"a value", "nothing", "a list", "a table"}[k]
}

type entry struct {
	key   string
	line  int
	value *node
}

func (n *node) get(key string) *node {
	for _, e := range n.entries {
		if e.key == key {
			return e.value
		}
	}
	return nil
}

// formats are the endings of a file.
var formats = []string{"yaml", "yml", "toml", "json"}

// parse reads a file's text in the format that its name's ending says.
func parse(path string, text []byte) (*node, error) {
	format := strings.ToLower(strings.TrimPrefix(filepath.Ext(path), "."))
	if !slices.Contains(formats, format) {
		return nil, fmt.Errorf("found ending %q, expected .yaml, .toml or .json", filepath.Ext(path))
	}
	var root *node
	codecs := viper.NewCodecRegistry()
	for format, parse := range map[string]func([]byte) (*node, error){
		"yaml": parseYAML, "yml": parseYAML, "toml": parseTOML, "json": parseJSON} {
		if err := codecs.RegisterCodec(format, codec{parse, &root}); err != nil {
			return nil, err
		}
	}
	v := viper.NewWithOptions(viper.WithCodecRegistry(codecs))
	v.SetConfigType(format)
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		var failed viper.ConfigParseError
		if errors.As(err, &failed) {
			err = failed.Unwrap()
		}
		return nil, err
	}
	if root.kind == nullNode {
		root = &node{kind: tableNode, line: 1}
	}
	if root.kind != tableNode {
		return nil, fmt.Errorf("line %d: found %s, expected keys with values", root.line, root.kind)
	}
	return root, root.unique("")
}

// codec is a format as viper calls it.
type codec struct {
	parse func([]byte) (*node, error)
	root  **node
}

// Decode implements viper.Decoder.
func (c codec) Decode(text []byte, into map[string]any) (err error) {
	if *c.root, err = c.parse(text); err != nil {
		return err
	}
	for _, e := range (*c.root).entries {
		into[e.key] = e.value
	}
	return nil
}

// Encode implements viper.Codec. Files of experiments are not written.
func (codec) Encode(map[string]any) ([]byte, error) {
	return nil, errors.New("files of experiments are not written")
}

// unique refuses a key that is in a table twice.
func (n *node) unique(at string) error {
	seen := map[string]int{}
	for _, e := range n.entries {
		if line, ok := seen[e.key]; ok {
			return fmt.Errorf("line %d: %s is there twice, first on line %d", e.line,
				join(at, e.key), line)
		}
		seen[e.key] = e.line
		if err := e.value.unique(join(at, e.key)); err != nil {
			return err
		}
	}
	for _, v := range n.list {
		if err := v.unique(at); err != nil {
			return err
		}
	}
	return nil
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}

// Bounds of a file.
const (
	maxDepth = 16
	maxNodes = 200_000 // aliases of YAML count as often as they stand
)

var errTooLarge = fmt.Errorf("found more than %d values, or more than %d levels", maxNodes, maxDepth)

func parseYAML(text []byte) (*node, error) {
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return &node{kind: nullNode, line: 1}, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var more yaml.Node
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("found a second document behind ---, expected one")
	}
	y := yamlTree{}
	return y.node(&doc, 0)
}

type yamlTree struct{ nodes int }

func (y *yamlTree) node(from *yaml.Node, depth int) (*node, error) {
	if y.nodes++; y.nodes > maxNodes || depth > maxDepth {
		return nil, errTooLarge
	}
	n := &node{line: from.Line}
	switch from.Kind {
	case yaml.DocumentNode:
		return y.node(from.Content[0], depth)
	case yaml.AliasNode:
		to, err := y.node(from.Alias, depth+1)
		if err == nil {
			to.line = from.Line
		}
		return to, err
	case yaml.ScalarNode:
		n.text = from.Value
		if from.ShortTag() == "!!null" {
			n.kind = nullNode
		}
	case yaml.SequenceNode:
		n.kind = listNode
		for _, c := range from.Content {
			v, err := y.node(c, depth+1)
			if err != nil {
				return nil, err
			}
			n.list = append(n.list, v)
		}
	case yaml.MappingNode:
		n.kind = tableNode
		return n, y.entries(n, from, depth)
	}
	return n, nil
}

// entries fills in a table. What is merged by << stands behind the table's own keys, which win.
func (y *yamlTree) entries(n *node, from *yaml.Node, depth int) error {
	var merged []entry
	for i := 0; i+1 < len(from.Content); i += 2 {
		k := from.Content[i]
		v, err := y.node(from.Content[i+1], depth+1)
		if err != nil {
			return err
		}
		if k.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: found a key that is no text", k.Line)
		}
		if k.ShortTag() != "!!merge" {
			n.entries = append(n.entries, entry{k.Value, k.Line, v})
			continue
		}
		for _, t := range append(v.list, v) {
			merged = append(merged, t.entries...)
		}
	}
	for _, e := range merged {
		if n.get(e.key) == nil {
			n.entries = append(n.entries, e)
		}
	}
	return nil
}

func parseJSON(text []byte) (*node, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var value func(depth int) (*node, error)
	value = func(depth int) (*node, error) {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		if depth > maxDepth {
			return nil, errTooLarge
		}
		n := &node{line: lineAt(text, d.InputOffset())}
		switch t := token.(type) {
		case json.Delim:
			n.kind = listNode
			if t == '{' {
				n.kind = tableNode
			}
			for d.More() {
				key := entry{}
				if n.kind == tableNode {
					k, err := d.Token()
					if err != nil {
						return nil, err
					}
					key.key, _ = k.(string)
					key.line = lineAt(text, d.InputOffset())
				}
				if key.value, err = value(depth + 1); err != nil {
					return nil, err
				}
				if n.kind == tableNode {
					n.entries = append(n.entries, key)
				} else {
					n.list = append(n.list, key.value)
				}
			}
			_, err := d.Token()
			return n, err
		case nil:
			n.kind = nullNode
		default:
			n.text = fmt.Sprint(t)
		}
		return n, nil
	}
	n, err := value(0)
	return n, endJSON(text, d, err)
}

// endJSON asks for the end of a text behind its value, and gives an error its line.
func endJSON(text []byte, d *json.Decoder, err error) error {
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err == nil {
			err = errors.New("found more behind the first value")
		}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	var syntax *json.SyntaxError
	var other *json.UnmarshalTypeError
	at := d.InputOffset()
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &other):
		at = other.Offset
	case errors.Is(err, io.ErrUnexpectedEOF):
		at = int64(len(text))
	}
	return fmt.Errorf("line %d: %w", lineAt(text, at), err)
}

// lineAt is the line of a byte.
func lineAt(text []byte, at int64) int {
	return 1 + bytes.Count(text[:min(at, int64(len(text)))], []byte("\n"))
}

func parseTOML(text []byte) (*node, error) {
	var all map[string]any
	if err := toml.Unmarshal(text, &all); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, _ := at.Position()
			return nil, fmt.Errorf("line %d: %s", line, strings.TrimPrefix(at.Error(), "toml: "))
		}
		return nil, err
	}
	t := tomlTree{text: text}
	t.parser.Reset(text)
	root := &node{kind: tableNode, line: 1}
	at := root
	for t.parser.NextExpression() {
		e := t.parser.Expression()
		var err error
		switch e.Kind {
		case unstable.Table:
			at, err = t.table(root, e.Key(), false)
		case unstable.ArrayTable:
			at, err = t.table(root, e.Key(), true)
		case unstable.KeyValue:
			err = t.keyValue(at, e)
		}
		if err != nil {
			return nil, err
		}
	}
	return root, t.parser.Error()
}

type tomlTree struct {
	parser unstable.Parser
	text   []byte
}

func (t *tomlTree) line(n *unstable.Node) int {
	return 1 + bytes.Count(t.text[:n.Raw.Offset], []byte("\n"))
}

// table finds or makes the table that a key leads to; with another, a new one at the end of a list.
func (t *tomlTree) table(at *node, key unstable.Iterator, another bool) (*node, error) {
	for depth := 0; key.Next(); depth++ {
		if depth > maxDepth {
			return nil, errTooLarge
		}
		k := key.Node()
		name, line := string(k.Data), t.line(k)
		next := at.get(name)
		if next == nil {
			next = &node{kind: tableNode, line: line}
			if another && key.IsLast() {
				next.kind = listNode
			}
			at.entries = append(at.entries, entry{name, line, next})
		}
		if next.kind == listNode {
			if another && key.IsLast() || len(next.list) == 0 {
				next.list = append(next.list, &node{kind: tableNode, line: line})
			}
			next = next.list[len(next.list)-1]
		}
		at = next
	}
	return at, nil
}

func (t *tomlTree) keyValue(at *node, e *unstable.Node) error {
	var names []string
	line := 0
	for key := e.Key(); key.Next(); {
		names, line = append(names, string(key.Node().Data)), t.line(key.Node())
	}
	if len(names) > maxDepth {
		return errTooLarge
	}
	for _, name := range names[:len(names)-1] {
		next := at.get(name)
		if next == nil {
			next = &node{kind: tableNode, line: line}
			at.entries = append(at.entries, entry{name, line, next})
		}
		at = next
	}
	v, err := t.value(e.Value(), line, 0)
	if err != nil {
		return err
	}
	at.entries = append(at.entries, entry{names[len(names)-1], line, v})
	return nil
}

// value reads a value; line is that of its key, since values of several kinds have no place of their own.
func (t *tomlTree) value(v *unstable.Node, line, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errTooLarge
	}
	n := &node{line: line, text: string(v.Data)}
	switch v.Kind {
	case unstable.Integer, unstable.Float:
		n.text = strings.ReplaceAll(n.text, "_", "")
	case unstable.Array:
		n.kind = listNode
		for i := v.Children(); i.Next(); {
			if i.Node().Kind == unstable.Comment {
				continue
			}
			c, err := t.value(i.Node(), line, depth+1)
			if err != nil {
				return nil, err
			}
			n.list = append(n.list, c)
		}
	case unstable.InlineTable:
		n.kind = tableNode
		for i := v.Children(); i.Next(); {
			if err := t.keyValue(n, i.Node()); err != nil {
				return nil, err
			}
		}
	}
	return n, nil
}
