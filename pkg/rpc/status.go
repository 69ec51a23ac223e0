package rpc

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// errorDomain marks our own ErrorInfo details.
	errorDomain = "entrepot"
	// kindKey is where ErrorInfo.metadata keeps the kind: two kinds share a code.
	kindKey = "kind"
	// upstreamReason begins the reason of every Upstream fault.
	upstreamReason = "UPSTREAM"
)

var kindCodes = map[fault.Kind]codes.Code{
	fault.Internal:        codes.Internal,
	fault.Invalid:         codes.InvalidArgument,
	fault.Unauthenticated: codes.Unauthenticated,
	fault.Denied:          codes.PermissionDenied,
	fault.NotFound:        codes.NotFound,
	fault.Conflict:        codes.AlreadyExists,
	fault.LostRace:        codes.Aborted,
	fault.Precondition:    codes.FailedPrecondition,
	fault.Exhausted:       codes.ResourceExhausted,
	fault.Upstream:        codes.Unavailable,
	fault.Unavailable:     codes.Unavailable,
	fault.Timeout:         codes.DeadlineExceeded,
	fault.Cancelled:       codes.Canceled,
	fault.Unimplemented:   codes.Unimplemented,
}

// codeKinds is the reverse, with Unavailable for the shared code, and what foreign servers send besides.
var codeKinds = map[codes.Code]fault.Kind{
	codes.InvalidArgument:    fault.Invalid,
	codes.OutOfRange:         fault.Invalid,
	codes.Unauthenticated:    fault.Unauthenticated,
	codes.PermissionDenied:   fault.Denied,
	codes.NotFound:           fault.NotFound,
	codes.AlreadyExists:      fault.Conflict,
	codes.Aborted:            fault.LostRace,
	codes.FailedPrecondition: fault.Precondition,
	codes.ResourceExhausted:  fault.Exhausted,
	codes.Unavailable:        fault.Unavailable,
	codes.DeadlineExceeded:   fault.Timeout,
	codes.Canceled:           fault.Cancelled,
	codes.Unimplemented:      fault.Unimplemented,
}

var kindsByName = func() map[string]fault.Kind {
	m := make(map[string]fault.Kind, len(kindCodes))
	for k := range kindCodes {
		m[k.String()] = k
	}
	return m
}()

// plain are the messages of errors whose own text is not meant for callers.
var plain = map[fault.Kind]string{
	fault.Internal:  "internal error",
	fault.Timeout:   "the request took too long",
	fault.Cancelled: "the request was cancelled",
}

// ToStatus returns the status of an error: what a caller may see of it. nil stays nil.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		if st, ok := status.FromError(err); ok && st.Code() != codes.Unknown { // made by gRPC itself, or by a client of a foreign server
			f = faultOf(st, err)
		} else {
			kind := fault.KindOf(err)
			f = fault.New(kind, "%s", plain[kind])
		}
	}
	message := f.Message
	if f.Kind == fault.Internal {
		message = plain[fault.Internal]
	}
	info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: f.Reason, Metadata: map[string]string{kindKey: f.Kind.String()}}
	if f.Kind == fault.Upstream && !strings.HasPrefix(info.Reason, upstreamReason) {
		info.Reason = strings.TrimSuffix(upstreamReason+"_"+info.Reason, "_")
	}
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(info)}
	if len(f.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range f.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
		}
		details = append(details, protoadapt.MessageV1Of(bad))
	}
	if f.RetryAfter > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(f.RetryAfter)}))
	}
	st := status.New(kindCodes[f.Kind], strings.ToValidUTF8(message, "�"))
	if with, err := st.WithDetails(details...); err == nil { // fails only for a detail that is not valid UTF-8
		st = with
	}
	return st.Err()
}

// FromStatus is the reverse: the *fault.Error that the other side returned, wrapping the status. An error that is no
// status, nil included, is returned as it is.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	return faultOf(st, err)
}

func faultOf(st *status.Status, cause error) *fault.Error {
	f := fault.New(codeKinds[st.Code()], "%w", cause)
	f.Message = st.Message()
	ours := false
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() != errorDomain {
				continue
			}
			ours = true
			f.Reason = d.GetReason()
			if k, ok := kindsByName[d.GetMetadata()[kindKey]]; ok && kindCodes[k] == st.Code() {
				f.Kind = k
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				f.Violations = append(f.Violations, fault.Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			f.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if !ours {
		// gRPC's own words name addresses and files of ours: they belong in the log, where the cause goes.
		switch f.Kind {
		case fault.Unavailable:
			f.Message = "a part of the service is not available, try again"
		case fault.Internal, fault.Timeout, fault.Cancelled:
			f.Message = plain[f.Kind]
		}
	}
	return f
}

// contextFault keeps the cause that a context was cancelled with, where gRPC only says Canceled.
func contextFault(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && (fault.Is(err, fault.Cancelled) || fault.Is(err, fault.Timeout)) {
		var f *fault.Error
		if errors.As(cause, &f) {
			return cause
		}
	}
	return err
}
