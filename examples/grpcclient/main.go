// Command grpcclient shows how another system talks to Entrepot by gRPC: it imports the proto module and nothing else of
// the project, logs in at the front door with an API key, creates a mirror channel, starts a sync and follows it.
//
//	ENTREPOT_API_KEY=$(cat <data-dir>/admin-key) go run . -addr 127.0.0.1:9090 -channel my-mirror -upstream https://…
//
// With -tls the connection is encrypted and the server's certificate checked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:9090", "front door of the platform, host:port")
	channel := flag.String("channel", "grpc-example", "name of the channel to create")
	upstream := flag.String("upstream", "", "URL of the conda channel to mirror")
	useTLS := flag.Bool("tls", false, "connect by TLS")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := run(ctx, *addr, *channel, *upstream, os.Getenv("ENTREPOT_API_KEY"), *useTLS); err != nil {
		fmt.Fprintln(os.Stderr, "grpcclient:", err)
		os.Exit(1)
	}
}

// apiKey sends the key with every call.
type apiKey struct {
	key    string
	secure bool
}

func (k apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + k.key}, nil
}

func (k apiKey) RequireTransportSecurity() bool { return k.secure }

func run(ctx context.Context, addr, channel, upstream, key string, useTLS bool) error {
	if key == "" || upstream == "" {
		return errors.New("set ENTREPOT_API_KEY and -upstream")
	}
	creds := insecure.NewCredentials()
	if useTLS {
		creds = credentials.NewTLS(nil)
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds), grpc.WithPerRPCCredentials(apiKey{key, useTLS}))
	if err != nil {
		return err
	}
	defer conn.Close()

	me, err := identityv1.NewIdentityServiceClient(conn).GetMe(ctx, &identityv1.GetMeRequest{})
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	fmt.Println("logged in as", me.GetUser().GetUsername())

	private := false
	ch, err := channelsv1.NewChannelServiceClient(conn).CreateChannel(ctx, &channelsv1.CreateChannelRequest{
		Name: channel, Private: &private, Mirror: &channelsv1.MirrorSettings{Url: upstream},
	})
	if status.Code(err) == codes.AlreadyExists {
		return fmt.Errorf("there is a channel %s already; choose another -channel", channel)
	}
	if err != nil {
		return fmt.Errorf("create channel: %w", err)
	}
	fmt.Println("created channel", ch.GetName())

	job, err := syncv1.NewSyncServiceClient(conn).StartSync(ctx, &syncv1.StartSyncRequest{Channel: channel})
	if err != nil {
		return fmt.Errorf("start sync: %w", err)
	}
	return follow(ctx, jobsv1.NewJobServiceClient(conn), job.GetId())
}

// follow prints a job's events until it is over. A stream that breaks is taken up again behind the last event.
func follow(ctx context.Context, jobs jobsv1.JobServiceClient, id string) error {
	last := ""
	for {
		stream, err := jobs.WatchJob(ctx, &jobsv1.WatchJobRequest{Id: id, LastEventId: last})
		for err == nil {
			var ev *jobsv1.JobEvent
			if ev, err = stream.Recv(); err != nil {
				break
			}
			last = ev.GetId()
			switch e := ev.GetEvent().(type) {
			case *jobsv1.JobEvent_Progress:
				fmt.Printf("%d of %d files, %d bytes: %s\n", e.Progress.GetDone(), e.Progress.GetTotal(), e.Progress.GetBytes(), e.Progress.GetMessage())
			case *jobsv1.JobEvent_Log:
				fmt.Println(e.Log.GetLevel()+":", e.Log.GetText())
			case *jobsv1.JobEvent_State:
				fmt.Println("job", e.State.GetNumber(), e.State.GetState())
				switch e.State.GetState() {
				case jobsv1.JobState_JOB_STATE_SUCCEEDED:
					result := e.State.GetResult().GetFields()
					fmt.Printf("added %v, failed %v\n", result["added"].GetNumberValue(), result["failed"].GetNumberValue())
					return nil
				case jobsv1.JobState_JOB_STATE_DEAD, jobsv1.JobState_JOB_STATE_CANCELLED:
					return fmt.Errorf("the sync did not succeed: %s", e.State.GetError())
				}
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, io.EOF) && status.Code(err) != codes.Unavailable {
			return err
		}
	}
}
