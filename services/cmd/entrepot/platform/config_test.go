package platform

import "testing"

func TestDoubtsAboutLogins(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*Config)
		want int
	}{
		"as it comes, on loopback":              {func(*Config) {}, 0},
		"reached from elsewhere":                {func(c *Config) { c.HTTPAddr = "0.0.0.0:8000" }, 1},
		"reached from elsewhere by any address": {func(c *Config) { c.HTTPAddr = ":8000" }, 1},
		"behind https":                          {func(c *Config) { c.HTTPAddr, c.PublicURL = ":8000", "https://packages.example.org" }, 0},
		"https in capitals":                     {func(c *Config) { c.HTTPAddr, c.PublicURL = ":8000", "HTTPS://packages.example.org" }, 0},
		"behind http":                           {func(c *Config) { c.PublicURL = "http://packages.example.org" }, 1},
		"http on this machine":                  {func(c *Config) { c.HTTPAddr, c.PublicURL = ":8000", "http://localhost:8000" }, 0},
		"http on this machine by number":        {func(c *Config) { c.PublicURL = "http://[::1]:8000" }, 0},
		"in development":                        {func(c *Config) { c.HTTPAddr, c.Dev = ":8000", true }, 0},
		"no logins here":                        {func(c *Config) { c.HTTPAddr, c.Target = ":8000", []string{"channels"} }, 0},
		"a gateway":                             {func(c *Config) { c.HTTPAddr, c.Target = ":8000", []string{"gateway"} }, 1},
	} {
		cfg := DefaultConfig()
		c.set(&cfg)
		if got := cfg.Doubts(); len(got) != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
