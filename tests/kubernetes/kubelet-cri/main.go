// kubelet-cri calls a CRI socket with the kubelet's own client library until its standard input ends,
// and says how that went: "answered N" now and then, "lost: ERROR" for a call that failed.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
)

const timeout = time.Minute

// ask is one call; its error loses it.
type ask func(ctx context.Context) error

// kubelet asks as the kubelet does: one connection for each service.
func kubelet(socket string) ([]ask, error) {
	ctx := context.Background()
	runtime, err := remote.NewRemoteRuntimeService(ctx, socket, timeout, nil, false)
	if err != nil {
		return nil, err
	}
	images, err := remote.NewRemoteImageService(ctx, socket, timeout, nil, false)
	if err != nil {
		return nil, err
	}
	return []ask{
		func(ctx context.Context) error { _, err := runtime.Version(ctx, "v1"); return err },
		func(ctx context.Context) error { _, err := images.ListImages(ctx, nil); return err },
		func(ctx context.Context) error { _, err := runtime.ListContainers(ctx, nil); return err },
	}, nil
}

// single asks both services over one connection.
func single(socket string) ([]ask, error) {
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		return nil, err
	}
	runtime, images := runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	return []ask{
		func(ctx context.Context) error {
			_, err := runtime.Version(ctx, &runtimeapi.VersionRequest{})
			return err
		},
		func(ctx context.Context) error {
			_, err := images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
			return err
		},
	}, nil
}

func main() {
	socket, form := os.Args[1], os.Args[2]
	make := map[string]func(string) ([]ask, error){"kubelet": kubelet, "single": single}[form]
	asks, err := make(socket)
	if err != nil {
		fmt.Println("lost:", err)
		os.Exit(1)
	}
	stop := atomic.Bool{}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	answered := 0
	for !stop.Load() {
		for _, ask := range asks {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			if err := ask(ctx); err != nil {
				fmt.Println("lost:", err)
			} else {
				answered++
			}
			cancel()
		}
		if answered%30 < len(asks) {
			fmt.Println("answered", answered)
		}
	}
	fmt.Println("answered", answered)
}
