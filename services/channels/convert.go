package channels

import (
	"encoding/hex"
	"net/url"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// toProto converts a channel. The count of members is identity's; see withMembers.
func (s *Service) toProto(c *channelRow) (*channelsv1.Channel, error) {
	m, err := c.mirrorSettings()
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(m.GetUrl()); m != nil && err == nil && u.User != nil {
		m = proto.CloneOf(m)
		u.User = nil
		m.Url = u.String()
	}
	return &channelsv1.Channel{
		Id: c.ID.String(), Name: c.Name, Namespace: c.Namespace, Description: c.Description, Private: c.Private, Kind: c.kind(),
		Mirror: m, SizeLimit: c.SizeLimit, Ttl: c.TTL, Head: c.Head, Size: c.Size, FileCount: c.FileCount, PackageCount: c.PackageCount,
		CreateTime: timestamppb.New(c.CreatedAt), UpdateTime: timestamppb.New(c.UpdatedAt),
	}, nil
}

func (f *fileRow) toProto() *channelsv1.File {
	out := &channelsv1.File{
		Id: f.ID.String(), Path: f.Path, Md5: hex.EncodeToString(f.MD5), Size: f.Size, Name: f.Name, Version: f.Version, Build: f.Build,
		BuildNumber: f.BuildNumber, Subdir: f.Arch, Record: string(f.Record), AddedRevision: f.AddedRev,
		CreateTime: timestamppb.New(f.CreatedAt), Uploader: f.Uploader,
	}
	if f.Digest != nil {
		out.Sha256 = f.Digest.String()
	}
	return out
}

func (p *packageRow) toProto() *channelsv1.Package {
	out := &channelsv1.Package{
		Name: p.Name, Summary: p.Summary, Description: p.Description, Url: p.URL, Subdirs: p.Subdirs,
		CurrentVersion: p.CurrentVersion, FileCount: p.FileCount,
	}
	if p.UpdatedAt != nil {
		out.UpdateTime = timestamppb.New(*p.UpdatedAt)
	}
	return out
}

func (r revisionRow) toProto() *channelsv1.Revision {
	return &channelsv1.Revision{
		Number: r.Number, CreateTime: timestamppb.New(r.CreatedAt), Author: r.Author, Added: r.Added, Removed: r.Removed, Cause: r.Cause,
	}
}
