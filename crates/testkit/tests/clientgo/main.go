// Command clientgo is the other side of Hikube's tests: Kubernetes' own Go libraries.
//
//	clientgo tags                the numbers of all fields, for crates/schema/src/protobuf/tags.txt
//	clientgo corpus              objects of every kind in protobuf and JSON, one a line
//	clientgo check               reads such lines and compares the two
//	clientgo drive KUBECONFIG    uses an API server as Go programs do, with protobuf
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 2 && arguments[0] == "drive" {
		return drive(arguments[1])
	}
	if len(arguments) == 1 {
		switch arguments[0] {
		case "tags":
			printTags(os.Stdout)
			return nil
		case "corpus":
			return printCorpus(os.Stdout)
		case "check":
			return checkCorpus(os.Stdin, os.Stdout)
		}
	}
	return fmt.Errorf("usage: clientgo tags|corpus|check|drive KUBECONFIG")
}
