package peft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Init is an initialisation of adapters that changes the base weights, when the adapter is created
// and again whenever PEFT loads the folder. Such adapters are not zero initially: the adapters in
// the file apply to the changed base.
type Init int

// The initialisations that can be reproduced from the base weights.
const (
	Plain Init = iota // the base is unchanged
	PiSSA             // the rank largest singular values are removed from the base
	// scaling times the projection on the first rank columns is removed from the base
	OLoRA
)

// advice is the next step for a refused adapter.
const advice = "merge it in Python, with PEFT's merge_and_unload"

// harmless lists the settings that do not affect the meaning of the tensors.
var harmless = []string{
	"auto_mapping", "base_model_name_or_path", "bias", "inference_mode", "lora_dropout",
	"megatron_core", "modules_to_save", "peft_type",
	"qalora_group_size", "revision", "runtime_config", "task_type",
	// options of initialisations, which init_lora_weights selects
	"corda_config", "eva_config", "loftq_config", "lora_ga_config",
}

// applied lists the settings that newConfig reads.
var applied = []string{
	"alpha_pattern", "exclude_modules", "init_lora_weights", "layers_pattern",
	"layers_to_transform", "lora_alpha", "peft_version", "r",
	"rank_pattern", "target_modules", "use_rslora",
}

// refused lists the settings that change the meaning of the tensors in unsupported ways, unless
// they are null or false.
var refused = map[string]string{
	"use_dora":                "weight-decomposed adapters are not supported",
	"lora_bias":               "adapters with biases are not supported",
	"layer_replication":       "replicated layers are not supported",
	"fan_in_fan_out":          "transposed linear weights are not supported",
	"megatron_config":         "Megatron layers are not supported",
	"trainable_token_indices": "trained embedding tokens are not supported",
	"target_parameters":       "adapters of single parameters are not supported",
	"use_qalora":              "adapters of quantised layers are not supported",
	"alora_invocation_tokens": "activated adapters cannot be merged",
	"arrow_config":            "routed adapters cannot be merged",
	"use_bdlora":              "block-diagonal adapters are not supported",
	"kasa_config": "adapters with singular values between lora_A and lora_B are not " +
		"supported",
	"monteclora_config":   "adapters with sampling are not supported",
	"velora_config":       "adapters with compressed activations are not supported",
	"ensure_weight_tying": "tied adapters are not supported",
}

// release is the range of PEFT versions that wrote a file, as far as its meaning depends on it.
type release int

const (
	unknown release = iota
	before14
	peft14
	from15
)

// config holds the settings of adapter_config.json that affect what an adapter computes.
type config struct {
	rank          int64
	alpha         float64
	ranks, alphas []keyed // rank_pattern and alpha_pattern, in the file's order
	rslora        bool
	init          Init
	target        selection
	exclude       selection
	indices       []int64 // layers_to_transform; nil for all
	indexAfter    []*expression
	release       release
	newest        bool // from a PEFT that takes the first index in a name, not the last
	matcher       matcher
}

// keyed is an entry of rank_pattern or alpha_pattern: a pattern and its value.
type keyed struct {
	*expression
	value float64
}

// selection is target_modules or exclude_modules: a list of names and name endings, or one
// expression, or neither.
type selection struct {
	names map[string]bool
	whole *expression
}

// maxConfig is the largest adapter_config.json that is read, in bytes.
const maxConfig = 1 << 20

// newConfig reads adapter_config.json. Every setting is either applied, known to have no effect
// here, or refused by name. An unknown setting is refused too, unless it is null, false or empty.
func newConfig(text []byte) (*config, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("it is not UTF-8 text")
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("expected a JSON object: %s", problem(err))
	}
	if kind := string(all["peft_type"]); kind != `"LORA"` {
		return nil, fmt.Errorf("peft_type is %s, expected \"LORA\"", shown(all["peft_type"]))
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		value := string(all[key])
		off := value == "null" || value == "false"
		reason, known := refused[key]
		switch {
		case off || slices.Contains(harmless, key) || slices.Contains(applied, key):
		case known:
			return nil, fmt.Errorf("%s is %s: %s; %s", key, shown(all[key]), reason, advice)
		case empty(value):
		default:
			return nil, fmt.Errorf("%s is %s, an unknown setting that may change the result; %s",
				key, shown(all[key]), advice)
		}
	}
	c := &config{alpha: 8, rank: 8}
	c.release, c.newest = releaseOf(all)
	for _, s := range []struct {
		key  string
		read func(json.RawMessage) error
	}{
		{"r", func(v json.RawMessage) error { return whole(v, &c.rank) }},
		{"lora_alpha", func(v json.RawMessage) error { return number(v, &c.alpha) }},
		{"rank_pattern",
			func(v json.RawMessage) (err error) { c.ranks, err = pattern(v); return err }},
		{"alpha_pattern",
			func(v json.RawMessage) (err error) { c.alphas, err = pattern(v); return err }},
		{"use_rslora", func(v json.RawMessage) error { return boolean(v, &c.rslora) }},
		{"init_lora_weights",
			func(v json.RawMessage) (err error) { c.init, err = initOf(v); return err }},
		{"target_modules", func(v json.RawMessage) error { return c.target.read(v) }},
		{"exclude_modules", func(v json.RawMessage) error { return c.exclude.read(v) }},
		{"layers_to_transform", func(v json.RawMessage) error { return c.readIndices(v) }},
		{"layers_pattern", func(v json.RawMessage) error { return c.readIndexAfter(v) }},
	} {
		if v, ok := all[s.key]; ok && (string(v) != "null" || s.key == "r" ||
			s.key == "lora_alpha") {
			if err := s.read(v); err != nil {
				return nil, fmt.Errorf("%s: %w", s.key, err)
			}
		}
	}
	if c.rank < 1 || c.rank > math.MaxInt32 {
		return nil, fmt.Errorf("r is %d, expected 1 or more", c.rank)
	}
	for _, k := range c.ranks {
		if k.value != math.Trunc(k.value) || k.value < 1 || k.value > math.MaxInt32 {
			return nil, fmt.Errorf("rank_pattern: %q is %v, expected a whole number of 1 or more",
				k.text, k.value)
		}
	}
	return c, nil
}

// releaseOf determines the writer's version from peft_version, present since 0.18, or else from the
// keys: PEFT always writes all the settings that it has, and 0.14 added lora_bias and eva_config,
// 0.15 corda_config and trainable_token_indices. A file with fewer settings than 0.10 may come from
// another program.
func releaseOf(all map[string]json.RawMessage) (r release, newest bool) {
	var text string
	if json.Unmarshal(all["peft_version"], &text) == nil && text != "" {
		major, rest, _ := strings.Cut(text, ".")
		minor, _, _ := strings.Cut(rest, ".")
		a, errA := strconv.Atoi(major)
		b, errB := strconv.Atoi(minor)
		switch {
		case errA != nil || errB != nil:
			return unknown, false
		case a > 0 || b >= 15:
			return from15, a > 0 || b >= 21
		case b == 14:
			return peft14, false
		}
		return before14, false
	}
	has := func(key string) bool { _, ok := all[key]; return ok }
	switch {
	case has("corda_config") || has("trainable_token_indices"):
		return from15, false
	case has("lora_bias") && has("eva_config"):
		return peft14, false
	case has("layer_replication") && has("use_dora") && has("loftq_config"):
		return before14, false
	}
	return unknown, false
}

// initOf reads init_lora_weights. Values that only choose the initial adapter do not matter after
// training.
func initOf(v json.RawMessage) (Init, error) {
	var text string
	if string(v) == "true" || string(v) == "false" {
		return Plain, nil
	}
	if json.Unmarshal(v, &text) != nil {
		return 0, fmt.Errorf("it is %s, expected true, false or a name", shown(v))
	}
	switch lower := strings.ToLower(text); {
	case slices.Contains([]string{"gaussian", "eva", "orthogonal", "mica"}, lower):
		return Plain, nil
	case text == "pissa":
		return PiSSA, nil
	case lower == "olora":
		return OLoRA, nil
	case strings.HasPrefix(text, "pissa_niter_"):
		return 0, fmt.Errorf("%q changed the base weights by a randomised decomposition, which "+
			"cannot be reproduced; %s", text, initAdvice)
	case slices.Contains([]string{"corda", "loftq", "lora_ga"}, lower):
		return 0, fmt.Errorf("%q changed the base weights in a way that cannot be reproduced "+
			"from the base alone; %s", text, initAdvice)
	}
	return 0, fmt.Errorf("%.40q is unknown and may have changed the base weights; %s",
		text, initAdvice)
}

// initAdvice is the next step for an adapter whose base weights were changed.
const initAdvice = "where it was trained, save it as a plain adapter with PEFT's " +
	"save_pretrained(…, path_initial_model_for_weight_conversion=…), or " + advice

// scaling returns the factor of a layer's B·A: alpha/r, or alpha/√r. name is the layer's first name
// in the network, rank the rank of its tensors. The matching of patterns differs between three
// ranges of PEFT versions.
// Source: PEFT 0.13.2, 0.14.0 and 0.15.0, LoraModel._create_and_replace and get_pattern_key.
func (c *config) scaling(name string, rank int64) (float64, error) {
	type reading struct {
		who   string
		rank  int64
		alpha float64
	}
	var readings []reading
	for _, r := range []struct {
		release release
		who     string
	}{{before14, "PEFT up to 0.13"}, {peft14, "PEFT 0.14"}, {from15, "PEFT from 0.15"}} {
		if c.release != unknown && c.release != r.release {
			continue
		}
		if c.release == unknown && len(c.ranks) == 0 && len(c.alphas) == 0 && len(readings) > 0 {
			continue
		}
		of := reading{r.who, c.rank, c.alpha}
		i, j, err := c.keys(name, r.release)
		if err != nil {
			return 0, err
		}
		if i >= 0 {
			of.rank = int64(c.ranks[i].value)
		}
		if j >= 0 {
			of.alpha = c.alphas[j].value
		}
		readings = append(readings, of)
	}
	fit := slices.DeleteFunc(slices.Clone(readings), func(r reading) bool { return r.rank != rank })
	if len(fit) == 0 {
		return 0, fmt.Errorf("layer %s: its tensors have rank %d, r and rank_pattern of %s give %d",
			name, rank, ConfigFile, readings[0].rank)
	}
	for _, r := range fit[1:] {
		if r.alpha != fit[0].alpha {
			return 0, fmt.Errorf("layer %s: alpha_pattern of %s gives %g with %s and %g with %s, "+
				"and the file does not name the version that wrote it: add \"peft_version\": "+
				"\"…\" to it, with the version that trained the adapter",
				name, ConfigFile, fit[0].alpha, fit[0].who, r.alpha, r.who)
		}
	}
	s := fit[0].alpha / float64(rank)
	if c.rslora {
		s = fit[0].alpha / math.Sqrt(float64(rank))
	}
	return s, nil
}

// keys returns the indices of a layer's entries in rank_pattern and alpha_pattern, -1 for none.
func (c *config) keys(name string, r release) (rank, alpha int, err error) {
	rankKey, err := c.key(c.ranks, name, r)
	if err != nil {
		return -1, -1, fmt.Errorf("rank_pattern: %w", err)
	}
	alphaKey := rankKey
	if r != before14 || rankKey == "" { // up to 0.13 one key was used for both
		if alphaKey, err = c.key(c.alphas, name, r); err != nil {
			return -1, -1, fmt.Errorf("alpha_pattern: %w", err)
		}
	}
	if r == before14 {
		rankKey = alphaKey
	}
	return place(c.ranks, rankKey, name), place(c.alphas, alphaKey, name), nil
}

// key returns the first key that matches, "" for none.
func (c *config) key(list []keyed, name string, r release) (string, error) {
	for _, k := range list {
		ok, err := c.matcher.ends(k.expression, name, r != from15)
		if err != nil {
			return "", err
		}
		if ok {
			return k.text, nil
		}
	}
	return "", nil
}

// place returns the index of a key in a list, or of the name itself if the key is "".
func place(list []keyed, key, name string) int {
	if key == "" {
		key = name
	}
	return slices.IndexFunc(list, func(k keyed) bool { return k.text == key })
}

// targeted reports whether PEFT adapts the layer with that name, its first one in the network.
// Source: PEFT 0.14.0 and 0.21.2, check_target_module_exists.
func (c *config) targeted(name string) (bool, error) {
	out, _, err := c.exclude.has(&c.matcher, name)
	if err != nil || out {
		return false, wrapped("exclude_modules", err)
	}
	if c.target.none() || c.target.whole != nil && c.target.whole.text == "all-linear" {
		return true, nil
	}
	in, exact, err := c.target.has(&c.matcher, name)
	if err != nil || !in || exact || len(c.indices) == 0 {
		return in, wrapped("target_modules", err)
	}
	last, first, err := c.index(name)
	if err != nil {
		return false, wrapped("layers_pattern", err)
	}
	inLast, inFirst := slices.Contains(c.indices, last), slices.Contains(c.indices, first)
	switch {
	case inLast == inFirst || c.newest:
		return inFirst, nil
	case c.release == before14 || c.release == peft14:
		return inLast, nil
	}
	return false, fmt.Errorf("layer %s: layers_to_transform refers to its index %d in some "+
		"versions of PEFT and %d in others, and %s does not name the version that wrote it", name,
		last, first,
		ConfigFile)
}

func wrapped(key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", key, err)
}

// index returns the index of a layer in its list, -1 for none: the last number in its name, as in
// older versions of PEFT, and the first, as in newer ones. With layers_pattern, only numbers that
// follow it count.
func (c *config) index(name string) (last, first int64, err error) {
	last, first = -1, -1
	if len(c.indexAfter) == 0 {
		parts := strings.Split(name, ".")
		for i := 2; i < len(parts)-1; i++ { // prefix, list, number, rest
			if n, err := strconv.ParseInt(parts[i], 10, 64); err == nil && digits(parts[i]) {
				if last = n; first < 0 {
					first = n
				}
			}
		}
		return last, first, nil
	}
	for i, before := range []string{`.*\.`, `(?:^|.*?\.)`} {
		for _, e := range c.indexAfter {
			found, err := c.matcher.match(e, before, `\.(\d+)\.`, name)
			if err != nil {
				return 0, 0, err
			}
			if found == nil {
				continue
			}
			n, err := strconv.ParseInt(found[1], 10, 64)
			if err != nil { // an alternative without a number, or one too large for any list
				n = -1
			}
			if i == 0 {
				last = n
			} else {
				first = n
			}
			break
		}
	}
	return last, first, nil
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func (s *selection) none() bool { return s.whole == nil && len(s.names) == 0 }

// read decodes a list or an expression.
func (s *selection) read(v json.RawMessage) (err error) {
	var text string
	if json.Unmarshal(v, &text) == nil {
		if text == "" {
			return nil
		}
		s.whole, err = newExpression(text)
		return err
	}
	list, err := texts(v)
	s.names = map[string]bool{}
	for _, name := range list {
		s.names[name] = true
	}
	return err
}

// has reports whether a name is selected, and whether by an exact match in a list.
func (s *selection) has(m *matcher, name string) (in, exact bool, err error) {
	if s.whole != nil {
		in, err = m.full(s.whole, name)
		return in, true, err
	}
	if s.names[name] {
		return true, true, nil
	}
	for end := name; !in && end != ""; {
		_, end, _ = strings.Cut(end, ".")
		in = s.names[end] && strings.HasSuffix(name, "."+end)
	}
	return in, false, nil
}

func (c *config) readIndices(v json.RawMessage) error {
	var one int64
	if json.Unmarshal(v, &one) == nil {
		c.indices = []int64{one}
		return nil
	}
	if json.Unmarshal(v, &c.indices) != nil {
		return fmt.Errorf("it is %s, expected a whole number or a list of them", shown(v))
	}
	return nil
}

func (c *config) readIndexAfter(v json.RawMessage) error {
	var list []string
	var one string
	if json.Unmarshal(v, &one) == nil {
		if one != "" {
			list = []string{one}
		}
	} else {
		var err error
		if list, err = texts(v); err != nil {
			return err
		}
	}
	for _, text := range list {
		e, err := newExpression(text)
		if err != nil {
			return err
		}
		// PEFT reads the first group as the number
		if strings.Contains(strings.ReplaceAll(text, "(?:", ""), "(") {
			return fmt.Errorf("%q: groups are not supported", text)
		}
		c.indexAfter = append(c.indexAfter, e)
	}
	return nil
}

// pattern reads an object of numbers in file order. Of equal keys the last value counts, at the
// position of the first, as in Python.
func pattern(v json.RawMessage) ([]keyed, error) {
	var values map[string]json.RawMessage
	if json.Unmarshal(v, &values) != nil {
		return nil, fmt.Errorf("it is %s, expected an object", shown(v))
	}
	d := json.NewDecoder(bytes.NewReader(v))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var list []keyed
	done := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		var skipped json.RawMessage
		if err := d.Decode(&skipped); err != nil {
			return nil, err
		}
		key, ok := token.(string)
		if !ok || done[key] {
			continue
		}
		done[key] = true
		k := keyed{}
		if k.expression, err = newExpression(key); err != nil {
			return nil, err
		}
		if err := number(values[key], &k.value); err != nil {
			return nil, fmt.Errorf("%q: %w", key, err)
		}
		list = append(list, k)
	}
	return list, nil
}

func whole(v json.RawMessage, to *int64) error {
	if json.Unmarshal(v, to) != nil || string(v) == "null" {
		return fmt.Errorf("it is %s, expected a whole number", shown(v))
	}
	return nil
}

func number(v json.RawMessage, to *float64) error {
	if json.Unmarshal(v, to) != nil || string(v) == "null" {
		return fmt.Errorf("it is %s, expected a number", shown(v))
	}
	return nil
}

func boolean(v json.RawMessage, to *bool) error {
	if json.Unmarshal(v, to) != nil {
		return fmt.Errorf("it is %s, expected true or false", shown(v))
	}
	return nil
}

func texts(v json.RawMessage) ([]string, error) {
	var list []string
	if json.Unmarshal(v, &list) != nil {
		return nil, fmt.Errorf("it is %s, expected a string or a list of strings", shown(v))
	}
	return list, nil
}

// empty reports whether JSON text is an empty string, list or object.
func empty(v string) bool {
	return slices.Contains([]string{`""`, "[]", "{}"}, strings.Join(strings.Fields(v), ""))
}

// shown returns a JSON value for a message, shortened.
func shown(v json.RawMessage) string {
	if v == nil {
		return "missing"
	}
	text := strings.Join(strings.Fields(string(v)), " ")
	if len(text) > 60 {
		text = strings.ToValidUTF8(text[:60], "") + "…"
	}
	return text
}

// problem describes a JSON error.
func problem(err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("%s, at byte %d", syntax, syntax.Offset)
	}
	return "found something else"
}
