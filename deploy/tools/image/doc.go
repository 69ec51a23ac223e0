// Command image writes the container image of the platform without a container engine: one layer over nothing, with the
// static binary, the public certificate authorities and the directories that the process writes to.
//
// The same binary gives the same bytes, on any machine and at any time: files are sorted, owned by numbers and dated to
// the epoch, and the authorities come from a pinned module instead of from the machine. So an image can be rebuilt by
// somebody else and compared by digest. deploy/Dockerfile describes the same image for those who have an engine.
//
// What it writes:
//
//	<out>/entrepot-image.tar   for `docker load` and `ctr images import`
//	<out>/entrepot-oci/        an OCI image layout, for `skopeo copy oci:…` and registries
//
// Standard output gets the digest of the manifest.
package main
