// h2spec runs cases of github.com/summerwind/h2spec against an HTTP/2 server on a Unix socket, and prints a line
// for each: passed, skipped or failed, its number, its description, and why it failed, with tabs between them.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: h2spec SOCKET PATH [generic|http2|hpack[/SECTION[/NUMBER]]]...")
		os.Exit(2)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go copyAll(listener, os.Args[1])
	// What the library prints by itself is for people.
	report := os.Stdout
	os.Stdout = os.Stderr
	settings := &config.Config{
		Host:         "127.0.0.1",
		Port:         listener.Addr().(*net.TCPAddr).Port,
		Path:         os.Args[2],
		Timeout:      2 * time.Second,
		MaxHeaderLen: 4000,
		Strict:       true,
		Sections:     os.Args[3:],
	}
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		group.Test(settings)
		printGroup(report, group)
	}
}

// copyAll connects each TCP connection to the socket.
func copyAll(listener net.Listener, socket string) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", socket)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			client.Close()
			continue
		}
		copyHalf := func(to, from net.Conn) {
			io.Copy(to, from)
			// Either side's end is the end of the connection, as it is without a copier.
			to.Close()
			from.Close()
		}
		go copyHalf(server, client)
		go copyHalf(client, server)
	}
}

func printGroup(report io.Writer, group *spec.TestGroup) {
	for _, test := range append(group.Tests, group.StrictTests...) {
		if result := test.Result; result != nil {
			outcome, reason := "passed", ""
			if result.Skipped {
				outcome = "skipped"
			} else if result.Failed {
				outcome, reason = "failed", strings.ReplaceAll(result.Error.Error(), "\n", "; ")
			}
			number := fmt.Sprintf("%s/%d", group.ID(), result.Sequence)
			fmt.Fprintln(report, strings.Join([]string{outcome, number, test.Desc, reason}, "\t"))
		}
	}
	for _, subgroup := range group.Groups {
		printGroup(report, subgroup)
	}
}
