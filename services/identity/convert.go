package identity

import (
	"encoding/base64"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func (u user) toProto() *identityv1.User {
	return &identityv1.User{
		Id: u.ID, Username: u.Username, Name: u.Name, AvatarUrl: u.AvatarURL, Role: u.Role, CreateTime: timestamppb.New(u.CreateTime),
		Disabled: u.Disabled,
	}
}

func (k apiKey) toProto(roles []keyRole) *identityv1.ApiKey {
	out := &identityv1.ApiKey{
		Id: k.ID, Description: k.Description, UserId: k.UserID, Username: k.Username, CreateTime: timestamppb.New(k.CreateTime),
		ExpireTime: optionalTime(k.ExpireTime), LastUsedTime: optionalTime(k.LastUsed),
	}
	for _, r := range roles {
		out.Roles = append(out.Roles, &identityv1.RoleGrant{Role: r.Role, Resource: r.Shown})
	}
	return out
}

func optionalTime(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

func unixTime(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// Page sizes as the protos promise them.
const (
	defaultPageSize = 50
	maxPageSize     = 1000
)

func pageSize(asked int32) int32 {
	switch {
	case asked <= 0:
		return defaultPageSize
	case asked > maxPageSize:
		return maxPageSize
	}
	return asked
}

// A page token is the last key of the page before.
func encodeToken(last string) string { return base64.RawURLEncoding.EncodeToString([]byte(last)) }

func decodeToken(token string) (string, error) {
	last, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", fault.Field("page_token", "page_token is not one that was given out")
	}
	return string(last), nil
}
