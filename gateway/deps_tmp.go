package gateway

import (
	_ "github.com/entrepot-dev/entrepot/pkg/fault"
	_ "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/google/uuid"
	_ "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	_ "github.com/hashicorp/golang-lru/v2"
	_ "github.com/klauspost/compress/zstd"
	_ "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	_ "go.opentelemetry.io/otel"
	_ "go.uber.org/goleak"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sync/singleflight"
	_ "google.golang.org/grpc"
	_ "google.golang.org/protobuf/testing/protocmp"
	_ "pgregory.net/rapid"
)
