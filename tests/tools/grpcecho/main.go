// grpcecho is the gRPC application of the mesh tests: grpc-go's echo service in all four kinds of streaming, with reflection, so that grpcurl can call it.
//
// Message texts steer it: "fail:N" ends the call with status N before any message (trailers-only), "sleep:MS" waits, "big:N" answers N bytes. What a
// handler sees of the end of a call (cancelled, deadline exceeded) is appended to the log on standard output, one line a call.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/examples/features/proto/echo"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

type server struct {
	pb.UnimplementedEchoServer
	name string
}

// obey does what the text asks for and returns the answer.
func (s *server) obey(ctx context.Context, text string) (string, error) {
	verb, arg, _ := strings.Cut(text, ":")
	n, _ := strconv.Atoi(arg)
	switch verb {
	case "fail":
		return "", status.Error(codes.Code(n), "as asked")
	case "sleep":
		select {
		case <-time.After(time.Duration(n) * time.Millisecond):
		case <-ctx.Done():
			fmt.Printf("ended %v\n", ctx.Err())
			return "", status.FromContextError(ctx.Err()).Err()
		}
	case "big":
		return strings.Repeat("x", n), nil
	case "metadata":
		md, _ := metadata.FromIncomingContext(ctx)
		return strings.Join(md.Get(arg), ","), nil
	}
	return s.name + " " + text, nil
}

func (s *server) UnaryEcho(ctx context.Context, r *pb.EchoRequest) (*pb.EchoResponse, error) {
	text, err := s.obey(ctx, r.Message)
	if err != nil {
		return nil, err
	}
	return &pb.EchoResponse{Message: text}, nil
}

// ServerStreamingEcho answers "count:N" with N messages.
func (s *server) ServerStreamingEcho(r *pb.EchoRequest, out pb.Echo_ServerStreamingEchoServer) error {
	if rest, ok := strings.CutPrefix(r.Message, "count:"); ok {
		n, _ := strconv.Atoi(rest)
		for i := range n {
			if err := out.Send(&pb.EchoResponse{Message: fmt.Sprint(i)}); err != nil {
				return err
			}
		}
		return nil
	}
	text, err := s.obey(out.Context(), r.Message)
	if err != nil {
		return err
	}
	return out.Send(&pb.EchoResponse{Message: text})
}

// ClientStreamingEcho answers with all texts joined.
func (s *server) ClientStreamingEcho(in pb.Echo_ClientStreamingEchoServer) error {
	var all []string
	for {
		r, err := in.Recv()
		if err == io.EOF {
			return in.SendAndClose(&pb.EchoResponse{Message: strings.Join(all, " ")})
		}
		if err != nil {
			fmt.Printf("ended %v\n", status.Code(err))
			return err
		}
		all = append(all, r.Message)
	}
}

func (s *server) BidirectionalStreamingEcho(both pb.Echo_BidirectionalStreamingEchoServer) error {
	for {
		r, err := both.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			fmt.Printf("ended %v\n", status.Code(err))
			return err
		}
		text, err := s.obey(both.Context(), r.Message)
		if err != nil {
			return err
		}
		if err := both.Send(&pb.EchoResponse{Message: text}); err != nil {
			return err
		}
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on; the one taken is printed")
	name := flag.String("name", "echo", "put before every answer")
	flag.Parse()
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening %s\n", l.Addr())
	s := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.MaxSendMsgSize(64<<20))
	pb.RegisterEchoServer(s, &server{name: *name})
	reflection.Register(s)
	log.Fatal(s.Serve(l))
}
