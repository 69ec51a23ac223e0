package main
import ("context";"os";"os/signal";"strings";"fmt";"errors"
"github.com/spf13/cobra"
"github.com/entrepot-dev/entrepot/services/cmd/entrepot/client"
"github.com/entrepot-dev/entrepot/services/cmd/entrepot/demo"
"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform")
func main(){
 start := func(ctx context.Context, o demo.StartOptions) (*demo.Platform, error) {
  cfg := platform.DefaultConfig()
  cfg.DataDir=o.DataDir; cfg.HTTPAddr=o.HTTPAddr
  cfg.GRPCAddr,cfg.ServiceAddr,cfg.DataAddr,cfg.OpsAddr="127.0.0.1:0","127.0.0.1:0","127.0.0.1:0","127.0.0.1:0"
  cfg.EgressAllow=[]string{"127.0.0.0/8","::1/128"}
  cfg.Log.Level="warn"
  ready := make(chan platform.Ready,1)
  p,err := platform.New(cfg, platform.Options{Version:"x",OnReady: func(r platform.Ready){ready<-r}})
  if err!=nil {return nil,err}
  rctx,cancel := context.WithCancel(context.WithoutCancel(ctx))
  done := make(chan error,1)
  go func(){ done <- p.Run(rctx)}()
  select{
  case err:=<-done: cancel(); return nil, errors.Join(err, errors.New("ended"))
  case r:=<-ready:
   key,err:=os.ReadFile(r.AdminKeyFile)
   if err!=nil{cancel();return nil,err}
   return &demo.Platform{URL:r.URL,AdminKey:strings.TrimSpace(string(key)),Done:done,Stop:func(context.Context) error{cancel(); return <-done}},nil
  }
 }
 ctx,stop:=signal.NotifyContext(context.Background(),os.Interrupt); defer stop()
 root:=&cobra.Command{Use:"entrepot",SilenceErrors:true,SilenceUsage:true}
 root.AddCommand(client.Commands("x")...)
 root.AddCommand(demo.Command(start))
 if err:=root.ExecuteContext(ctx);err!=nil{
  if err.Error()!="" {fmt.Fprintln(os.Stderr,"entrepot:",err)}
  var c interface{ExitCode() int}
  if errors.As(err,&c){os.Exit(c.ExitCode())}
  os.Exit(1)
 }
}
