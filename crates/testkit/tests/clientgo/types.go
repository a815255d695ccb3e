package main

import (
	"fmt"
	"io"
	"reflect"
	"sort"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

func init() {
	utilruntime.Must(apiextensions.AddToScheme(scheme.Scheme))
	utilruntime.Must(apiregistration.AddToScheme(scheme.Scheme))
}

// stableKinds are the kinds of versions v1 and v2, which are the ones that Hikube serves.
func stableKinds() []schema.GroupVersionKind {
	var kinds []schema.GroupVersionKind
	for gvk, goType := range scheme.Scheme.AllKnownTypes() {
		if gvk.Version != "v1" && gvk.Version != "v2" {
			continue
		}
		// Types that every group registers are counted once, in the core group.
		if strings.HasSuffix(goType.PkgPath(), "meta/v1") && gvk.Group != "" {
			continue
		}
		kinds = append(kinds, gvk)
	}
	sort.Slice(kinds, func(i, j int) bool { return kinds[i].String() < kinds[j].String() })
	return kinds
}

// openAPIName is the name of a Go type in the published documents.
func openAPIName(t reflect.Type) string {
	path := strings.Split(t.PkgPath(), "/")
	host := strings.Split(path[0], ".")
	for i, j := 0, len(host)-1; i < j; i, j = i+1, j-1 {
		host[i], host[j] = host[j], host[i]
	}
	return strings.Join(append(host, path[1:]...), ".") + "." + t.Name()
}

// tagNumber is the number of a field in its message, or nothing.
func tagNumber(f reflect.StructField) string {
	parts := strings.Split(f.Tag.Get("protobuf"), ",")
	if len(parts) < 2 || parts[0] == "-" {
		return ""
	}
	return parts[1]
}

// jsonName is the name of a field in JSON, and whether an empty value is left out there.
func jsonName(f reflect.StructField) (string, bool) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
}

// Types with an encoding of their own.
var leaves = map[reflect.Type]bool{
	reflect.TypeOf(metav1.Time{}):                                true,
	reflect.TypeOf(metav1.MicroTime{}):                           true,
	reflect.TypeOf(metav1.FieldsV1{}):                            true,
	reflect.TypeOf(runtime.RawExtension{}):                       true,
	reflect.TypeOf(apiextensions.JSON{}):                         true,
	reflect.TypeOf(apiextensions.JSONSchemaPropsOrArray{}):       true,
	reflect.TypeOf(apiextensions.JSONSchemaPropsOrBool{}):        true,
	reflect.TypeOf(apiextensions.JSONSchemaPropsOrStringArray{}): true,
}

func isLeaf(t reflect.Type) bool {
	return leaves[t] || t.Name() == "Quantity" || t.Name() == "IntOrString"
}

// printTags writes one line for each type: its name and NAME=NUMBER for each field. A `?` marks a pointer, whose
// empty value differs from none, a `!` a value that JSON shows even when it is empty.
func printTags(out io.Writer) {
	lines := map[string]string{}
	for _, gvk := range stableKinds() {
		goType := scheme.Scheme.AllKnownTypes()[gvk]
		collectTags(goType, lines)
	}
	collectTags(reflect.TypeOf(metav1.PartialObjectMetadata{}), lines)
	collectTags(reflect.TypeOf(metav1.PartialObjectMetadataList{}), lines)
	var sorted []string
	for name, fields := range lines {
		if fields != "" {
			sorted = append(sorted, name+fields)
		}
	}
	sort.Strings(sorted)
	for _, line := range sorted {
		fmt.Fprintln(out, line)
	}
}

func collectTags(t reflect.Type, lines map[string]string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || isLeaf(t) {
		return
	}
	name := openAPIName(t)
	if _, known := lines[name]; known {
		return
	}
	lines[name] = ""
	lines[name] = fieldTags(t, lines)
}

func fieldTags(t reflect.Type, lines map[string]string) string {
	var out strings.Builder
	for i := range t.NumField() {
		field := t.Field(i)
		number := tagNumber(field)
		if number == "" {
			continue
		}
		name, omitted := jsonName(field)
		if name == "" {
			inner := field.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			fmt.Fprintf(&out, " +%s(%s )", number, fieldTags(inner, lines))
			continue
		}
		mark := ""
		switch field.Type.Kind() {
		case reflect.Pointer:
			mark = "?"
		case reflect.String, reflect.Bool, reflect.Int32, reflect.Int64, reflect.Float64:
			if !omitted {
				mark = "!"
			}
		case reflect.Struct:
			// JSON shows its zero as the number 0.
			if field.Type.Name() == "IntOrString" {
				mark = "!"
			}
		}
		fmt.Fprintf(&out, " %s=%s%s", name, number, mark)
		collectTags(field.Type, lines)
	}
	return out.String()
}
