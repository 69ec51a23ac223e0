// Package openapi holds the OpenAPI 2.0 description that buf generates from the protos.
package openapi

import _ "embed"

// Document is the description, as JSON.
//
//go:embed entrepot.swagger.json
var Document []byte
