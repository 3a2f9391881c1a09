// Prints what Go makes of generated payloads, one JSON object a line: the recorded
// golden/go-readings.jsonl is `go run readings.go 400`, made with Go 1.19. The two readers below
// follow the rules of Kata's Go runtime; what matters here is Go's own base64 and JSON.
package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
)

type extra struct {
	Source      string `json:"source"`
	Config      string `json:"config"`
	Snapshotdir string `json:"snapshotdir"`
}

type metadata struct {
	Metadata map[string]string `json:"metadata"`
}

type nydusImage struct {
	Config      string `json:"config"`
	SnapshotDir string `json:"snapshot_dir"`
}

type verity struct {
	Hashtype  string `json:"hashtype"`
	Hash      string `json:"hash"`
	Blocknum  uint64 `json:"blocknum"`
	Blocksize uint64 `json:"blocksize"`
	Hashsize  uint64 `json:"hashsize"`
	Offset    uint64 `json:"offset"`
}

type volume struct {
	VolumeType   string      `json:"volume_type"`
	Source       string      `json:"source,omitempty"`
	FsType       string      `json:"fs_type,omitempty"`
	Options      []string    `json:"options,omitempty"`
	DirectVolume *metadata   `json:"direct_volume,omitempty"`
	ImagePull    *metadata   `json:"image_pull,omitempty"`
	NydusImage   *nydusImage `json:"nydus_image,omitempty"`
	DmVerity     *verity     `json:"dm_verity,omitempty"`
}

var errInvalid = errors.New("invalid")

func parse(value string, into interface{}) error {
	if value == "" {
		return errInvalid
	}
	text, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func readExtra(value string) (interface{}, error) {
	e := &extra{}
	if err := parse(value, e); err != nil {
		return nil, err
	}
	if e.Source == "" || e.Config == "" || e.Snapshotdir == "" {
		return nil, errInvalid
	}
	return e, nil
}

func readVolume(value string) (interface{}, error) {
	v := &volume{}
	if err := parse(value, v); err != nil {
		return nil, err
	}
	noMap := func(m *metadata) bool { return m != nil && m.Metadata == nil }
	image := v.NydusImage
	if v.VolumeType == "" || noMap(v.DirectVolume) || noMap(v.ImagePull) ||
		image != nil && image.Config == "" && image.SnapshotDir == "" ||
		v.DmVerity != nil && !v.DmVerity.valid() {
		return nil, errInvalid
	}
	return v, nil
}

func (d *verity) valid() bool {
	digits := map[string]int{"sha256": 64, "sha1": 40}[strings.ToLower(d.Hashtype)]
	_, err := hex.DecodeString(d.Hash)
	size := func(n uint64) bool { return n >= 1<<9 && n <= 1<<19 }
	return digits != 0 && len(d.Hash) == digits && err == nil &&
		d.Blocknum != 0 && d.Blocknum <= 1<<32-1 && size(d.Blocksize) && size(d.Hashsize) &&
		d.Offset%d.Hashsize == 0 && d.Offset >= d.Blocksize*d.Blocknum
}

var r *rand.Rand

func pick(of ...string) string { return of[r.Intn(len(of))] }

// How seldom something nasty comes, for the document being made.
var calm = 1

func rarely(n int) bool { return r.Intn(n*calm) == 0 }

func space() string {
	if rarely(12) {
		return pick(" ", "\t", "\r\n", "\f")
	}
	return ""
}

func key(name string) string {
	if !rarely(8) {
		return `"` + name + `"`
	}
	return pick(
		`"`+strings.ToUpper(name)+`"`,
		`"`+strings.Title(name)+`"`,
		`"`+strings.ReplaceAll(name, "s", "ſ")+`"`,
		`"`+strings.ReplaceAll(name, "k", "\u212a")+`"`,
		`"\u00`+hex.EncodeToString([]byte(name[:1]))+name[1:]+`"`,
		`"`+name+` "`, `"`+name+`x"`, `"`+name+"\xff\"", name)
}

func text() string {
	if !rarely(5) {
		return pick(`"/a"`, `"/b/c"`, `"rafsv6"`, `"v6"`, `"{\"device\":{}}"`)
	}
	return pick(`""`, `"\ud800"`, `"\ud800\u0041"`, `"\ud83d\ude00"`, `"\udc00\ud800\\ud800"`,
		"\"\xff\"", "\"\xe2\x82\"", "\"\xf0\x9f\x98\"", "\"\xc3\xa9\"", "\"a\nb\"", "\"\x7f\"",
		`"\u00"`, `"\/\b\u0000"`, `"\x"`, `"open`)
}

func other() string {
	return pick("null", "null", "0", "1", "-0", "1.0", "1e2", "1e400", "01", "18446744073709551616",
		"true", "nul", "[]", "{}", `["a"]`, `{"a":"b"}`, `[null,"a"]`, `{"a":null}`, "[1]", `{"a":1}`, "[,]")
}

func value(usual func() string) string {
	if rarely(9) {
		return other()
	}
	return usual()
}

func number() string { return pick("1", "8", "512", "4096", "524288", "8388608") }

func hash() string { return `"` + strings.Repeat(pick("ab", "AB", "0", "gg"), pick2(32, 20)) + `"` }

func pick2(a, b int) int {
	if rarely(3) {
		return b
	}
	return a
}

type field struct {
	name  string
	usual func() string
}

func object(fields []field) func() string {
	return func() string {
		members := []string{}
		for _, f := range fields {
			for n := 1; n > 0; n-- {
				if rarely(12) {
					break
				}
				members = append(members, space()+key(f.name)+space()+":"+space()+value(f.usual)+space())
				if rarely(8) {
					n++
				}
			}
		}
		if rarely(10) {
			members = append(members, `"unknown":`+other())
		}
		if rarely(3) {
			r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		}
		return "{" + strings.Join(members, ",") + "}"
	}
}

func list(element func() string) func() string {
	return func() string {
		members := []string{value(element)}
		for n := r.Intn(3); n > 0; n-- {
			members = append(members, value(element))
		}
		if rarely(3) {
			members[0] = "null"
		}
		return "[" + strings.Join(members, ",") + "]"
	}
}

func sometimes(fields []field) []field {
	kept := []field{}
	for _, f := range fields {
		if !rarely(3) {
			kept = append(kept, f)
		}
	}
	return kept
}

func volumeType() string {
	return pick(`"direct_block"`, `"image_raw_block"`, `"image_nydus_fs"`, `"image_guest_pull"`, `""`, `"x"`)
}

func document(kind string) string {
	fields := []field{{"source", text}, {"config", text}, {"snapshotdir", text}, {"fs_version", text}}
	if kind == "volume" {
		meta := object([]field{{"metadata", object([]field{{"a", text}, {"b", text}})}})
		image := object([]field{{"config", text}, {"snapshot_dir", text}})
		dm := object([]field{{"hashtype", func() string { return pick(`"sha256"`, `"SHA1"`) }},
			{"hash", hash}, {"blocknum", number}, {"blocksize", number}, {"hashsize", number},
			{"offset", number}})
		fields = append([]field{{"volume_type", volumeType}}, sometimes([]field{{"source", text},
			{"fs_type", text}, {"options", list(text)}, {"direct_volume", meta}, {"image_pull", meta},
			{"nydus_image", image}, {"dm_verity", dm}})...)
	}
	if rarely(40) {
		return pick("null", "", `["a","b","c","v6"]`, `"a"`, "{}", "1")
	}
	return space() + object(fields)() + pick("", "", "", "", "", " ", "\n", "x", "{}")
}

func encode(json string) string {
	b := base64.StdEncoding.EncodeToString([]byte(json))
	at := r.Intn(len(b) + 1)
	switch r.Intn(16 + 8*calm) {
	case 0:
		return b[:at] + pick("\n", "\r\n", "\r") + b[at:]
	case 1:
		return b + pick("\n", "=", "\r\r", " ", "A")
	case 2:
		return strings.TrimRight(b, "=")
	case 3:
		return b[:at] + pick(" ", "-", "_", "é", "\x00") + b[at:]
	case 4:
		if strings.HasSuffix(b, "==") {
			last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", b[len(b)-3])
			return b[:len(b)-3] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[last|5]) + "=="
		}
	case 5:
		if rarely(6) {
			return "extraoption=" + b
		}
	}
	return b
}

func main() {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	r = rand.New(rand.NewSource(1))
	out := json.NewEncoder(os.Stdout)
	for i := 0; i < n; i++ {
		kind, read := "extra", readExtra
		if i%2 == 1 {
			kind, read = "volume", readVolume
		}
		calm = []int{1, 4, 16}[r.Intn(3)]
		value := encode(document(kind))
		reading, _ := read(value)
		if err := out.Encode(map[string]interface{}{"kind": kind, "value": value, "go": reading}); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}
