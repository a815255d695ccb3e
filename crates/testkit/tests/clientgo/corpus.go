package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
)

// sample is one object in both encodings.
type sample struct {
	Group    string          `json:"group"`
	Version  string          `json:"version"`
	Kind     string          `json:"kind"`
	Protobuf []byte          `json:"protobuf"`
	JSON     json.RawMessage `json:"json"`
}

// Kinds that are never a body in protobuf: events of watches, and discovery, which clients ask for in JSON.
var notBodies = map[string]bool{
	"WatchEvent": true, "InternalEvent": true, "APIGroup": true, "APIGroupList": true, "APIResourceList": true,
	"APIVersions": true,
}

// printCorpus writes two objects of every kind: one with every field set, one with every pointer to an empty value.
func printCorpus(out io.Writer) error {
	codec := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	writer := bufio.NewWriter(out)
	defer writer.Flush()
	for _, gvk := range stableKinds() {
		if notBodies[gvk.Kind] {
			continue
		}
		for _, empty := range []bool{false, true} {
			object, err := scheme.Scheme.New(gvk)
			if err != nil {
				return err
			}
			f := filler{empty: empty, seen: map[reflect.Type]int{}}
			f.fill(reflect.ValueOf(object).Elem())
			object.GetObjectKind().SetGroupVersionKind(gvk)
			var encoded bytes.Buffer
			if err := codec.Encode(object, &encoded); err != nil {
				// Options of requests have no protobuf form.
				continue
			}
			text, err := json.Marshal(object)
			if err != nil {
				return fmt.Errorf("%s: %w", gvk, err)
			}
			line, err := json.Marshal(sample{gvk.Group, gvk.Version, gvk.Kind, encoded.Bytes(), text})
			if err != nil {
				return err
			}
			writer.Write(append(line, '\n'))
		}
	}
	return nil
}

// checkCorpus reads objects in both encodings and says which differ once they are decoded.
func checkCorpus(in io.Reader, out io.Writer) error {
	codec := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	decoder := json.NewDecoder(in)
	count := 0
	for {
		var s sample
		if err := decoder.Decode(&s); err == io.EOF {
			fmt.Fprintf(out, "checked %d\n", count)
			return nil
		} else if err != nil {
			return err
		}
		count++
		gvk := schema.GroupVersionKind{Group: s.Group, Version: s.Version, Kind: s.Kind}
		want, err := scheme.Scheme.New(gvk)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(s.JSON, want); err != nil {
			return fmt.Errorf("%s: %w", gvk, err)
		}
		got, _, err := codec.Decode(s.Protobuf, nil, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", gvk, err)
		}
		got.GetObjectKind().SetGroupVersionKind(gvk)
		if !equality.Semantic.DeepEqual(want, got) {
			text, _ := json.Marshal(got)
			return fmt.Errorf("%s: differs:\nwant %s\ngot  %s", gvk, s.JSON, text)
		}
	}
}

// filler sets the fields of an object to values that depend on nothing but their order.
type filler struct {
	empty  bool
	number int
	seen   map[reflect.Type]int
}

// maxNesting is how often a type may occur within itself.
const maxNesting = 2

func (f *filler) next() int {
	f.number++
	return f.number
}

func (f *filler) fill(v reflect.Value) {
	if f.fillLeaf(v) {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if f.seen[v.Type().Elem()] < maxNesting {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(v.Elem())
		}
	case reflect.Struct:
		f.seen[v.Type()]++
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if field.IsExported() && field.Name != "TypeMeta" {
				f.fill(v.Field(i))
			}
		}
		f.seen[v.Type()]--
	case reflect.Slice, reflect.Map:
		if !f.empty && f.seen[v.Type().Elem()] < maxNesting {
			f.fillMany(v)
		}
	default:
		if !f.empty {
			f.fillScalar(v)
		}
	}
}

func (f *filler) fillMany(v reflect.Value) {
	switch {
	case v.Type().Elem().Kind() == reflect.Uint8:
		v.SetBytes([]byte{0, 255, byte(f.next())})
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		f.fill(v.Index(0))
		f.fill(v.Index(1))
	default:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			f.fill(key)
			f.fill(value)
			v.SetMapIndex(key, value)
		}
	}
}

func (f *filler) fillScalar(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text-%d", f.next()))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64, reflect.Int:
		// Negative numbers take ten bytes.
		v.SetInt(int64(f.next() * []int{1, -1}[f.number%2]))
	case reflect.Float64:
		v.SetFloat(float64(f.next()) + 0.5)
	}
}

// fillLeaf sets a value whose type has an encoding of its own.
func (f *filler) fillLeaf(v reflect.Value) bool {
	at := time.Date(2026, 1, 2, 3, 4, f.number%60, 0, time.UTC)
	switch value := v.Addr().Interface().(type) {
	case *metav1.Time:
		*value = metav1.NewTime(at)
	case *metav1.MicroTime:
		*value = metav1.NewMicroTime(at.Add(678 * time.Microsecond))
	case *resource.Quantity:
		*value = resource.MustParse([]string{"100m", "2Gi", "0"}[f.next()%3])
	case *intstr.IntOrString:
		*value = []intstr.IntOrString{intstr.FromInt32(0), intstr.FromString("25%"), intstr.FromInt32(80)}[f.next()%3]
	case *metav1.FieldsV1:
		value.Raw = []byte(`{"f:data":{".":{}}}`)
	case *runtime.RawExtension:
		value.Raw = []byte(`{"a":[1,"x",null]}`)
	case *apiextensions.JSON:
		value.Raw = []byte(`{"a":[1,"x"]}`)
	case *apiextensions.JSONSchemaPropsOrBool:
		value.Allows = true
		if f.next()%2 == 0 {
			value.Schema = &apiextensions.JSONSchemaProps{Type: "string"}
		}
	case *apiextensions.JSONSchemaPropsOrArray:
		if f.next()%2 == 0 {
			value.Schema = &apiextensions.JSONSchemaProps{Type: "string"}
		} else {
			value.JSONSchemas = []apiextensions.JSONSchemaProps{{Type: "a"}, {Type: "b"}}
		}
	case *apiextensions.JSONSchemaPropsOrStringArray:
		if f.next()%2 == 0 {
			value.Schema = &apiextensions.JSONSchemaProps{Type: "string"}
		} else {
			value.Property = []string{"a", "b"}
		}
	default:
		return false
	}
	return true
}
