// Package dataplane moves the bytes of blobs over plain HTTP, past gRPC.
//
//	GET|HEAD  /blobs/<64 digits>   one blob: ranges, strong ETag, 304, HEAD
//	PUT|POST  /blobs               the body becomes a blob; 201 and {"digest","md5","size"}
//
// Every request shows a grant (package grant) in the header Entrepot-Grant or the parameter grant, and is refused before
// a byte of its body is read if the grant does not open what it asks for. An upload may say in parameters what it expects
// itself to be (sha256, md5, size; hash=md5 asks for the MD5), and is compared before anything is stored. The answer never
// says whether the blob was there before: that would tell who does not have it that somebody does.
//
// # Serving
//
// Serve writes one blob as the answer to one request, and the edge uses the very same function for packages and index
// files, whether they come from a directory, from S3 or from memory. It keeps sendfile: a blob of a directory reaches
// net/http as the file that it is. Middleware that wraps http.ResponseWriter must therefore keep io.ReaderFrom.
// A blob whose bytes end early, or that breaks off on its way from S3, cuts the connection: a client sees an error and
// never a short body that looks whole.
//
// # Client
//
// Client is the other end. Where the handler lives in the same process, it calls the store directly, after the same
// check of the grant.
package dataplane
