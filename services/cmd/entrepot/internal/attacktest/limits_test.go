package attacktest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/entrepot-dev/entrepot/gateway"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestPageSizes asks every RPC that has pages for the largest and for impossible ones: it costs no memory.
func TestPageSizes(t *testing.T) {
	s := platformtest.Start(t)
	conn := s.Conn()
	tried := 0
	for _, name := range gateway.Services {
		policies, err := rpc.Policies(string(name))
		if err != nil {
			t.Fatal(err)
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			size := m.Input().Fields().ByName("page_size")
			if size == nil || policies[fmt.Sprintf("/%s/%s", name, m.Name())].Access.GetInternal() {
				continue // internal methods do not exist for strangers
			}
			for _, n := range []int64{2147483647, -1, -2147483648, 1 << 30, 1_000_001} {
				tried++
				req := dynamicpb.NewMessage(m.Input())
				if size.Kind() == protoreflect.Int64Kind {
					req.Set(size, protoreflect.ValueOfInt64(n))
				} else {
					req.Set(size, protoreflect.ValueOfInt32(int32(n)))
				}
				if ch := m.Input().Fields().ByName("channel"); ch != nil && ch.Kind() == protoreflect.StringKind {
					req.Set(ch, protoreflect.ValueOfString("channel0"))
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+s.AdminKey)
				err := conn.Invoke(ctx, fmt.Sprintf("/%s/%s", name, m.Name()), req, dynamicpb.NewMessage(m.Output()))
				runtime.ReadMemStats(&after)
				if grown := after.TotalAlloc - before.TotalAlloc; grown > 10<<20 {
					t.Errorf("%s with page_size %d allocates %d MB", m.Name(), n, grown>>20)
				}
				switch status.Code(err) {
				case codes.OK, codes.InvalidArgument, codes.NotFound:
				default:
					t.Errorf("%s with page_size %d: %v", m.Name(), n, err)
				}
			}
		}
	}
	whole(t, s)
	t.Logf("%d requests", tried)
	if tried < 20 {
		t.Error("that are too few")
	}
}

// TestBodiesOfStrangers: who may upload nothing is told so, and his gigabyte stays with him, whether he announces it,
// waits for leave, or sends chunks without end.
func TestBodiesOfStrangers(t *testing.T) {
	s := platformtest.Start(t)
	const gigabyte = 1 << 30
	// What the two sockets hold is nobody's decision: a few hundred kilobytes with the buffers as small as they can be.
	const buffers = 1 << 20
	vectors := 0
	for _, target := range []string{
		"POST /api/channels/channel0/upload/demo-1.0-0.conda?sha256=", "PUT /entrepot/v1/channels/channel0/uploads/demo-1.0-0.conda", "POST /api/channels/channel0/files/", "POST /api/channels/channel0/packages/demo/files/",
		"POST /api/channels", "POST /entrepot/v1/channels", "PUT /get/channel0/noarch/x", "POST /nowhere", "PUT /entrepot/v1/channels/none/uploads/demo-1.0-0.conda", "POST /api/channels/../../x",
	} {
		for _, key := range []string{"", "X-Api-Key: unknown\r\n"} {
			for _, how := range []string{fmt.Sprintf("Content-Length: %d\r\n", gigabyte), "Transfer-Encoding: chunked\r\n", fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue\r\n", gigabyte), "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"} {
				vectors++
				what := fmt.Sprintf("%s %q", target, key+how)
				status, sent := pour(t, addr(s), target+" HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"+key+how+"\r\n", strings.Contains(how, "chunked"), strings.Contains(how, "Expect"), 4*buffers)
				// A JSON object of unknown length may be a short one: a little of it is asked for.
				short := status == 100 && strings.Contains(how, "chunked") && strings.HasSuffix(target, "/channels")
				if status != 0 && (status < 400 || status >= 500) && !short {
					t.Errorf("%s: %d", what, status)
				}
				if sent > buffers {
					t.Errorf("%s: %d bytes were taken", what, sent)
				}
			}
		}
	}
	whole(t, s)
	t.Logf("%d vectors", vectors)
}

// pour sends a head, and then a body for as long as somebody takes it.
func pour(t *testing.T, addr, head string, chunked, waits bool, most int) (status, sent int) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, head); err != nil {
		t.Fatal(err)
	}
	answer := make(chan int, 1)
	ctx, done := context.WithCancel(t.Context())
	go func() {
		defer done()
		var status int
		line, _ := bufio.NewReader(conn).ReadString('\n') // lost with the connection, it is 0
		_, _ = fmt.Sscanf(line, "HTTP/1.1 %d", &status)
		answer <- status
	}()
	if waits {
		status = <-answer
		return status, 0
	}
	piece := []byte(strings.Repeat("x", 16<<10))
	if chunked {
		piece = []byte(fmt.Sprintf("%x\r\n%s\r\n", 16<<10-16, strings.Repeat("x", 16<<10-16)))
	}
	for sent < most {
		n, err := conn.Write(piece)
		sent += n
		if err != nil || ctx.Err() != nil {
			break
		}
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	return <-answer, sent
}
