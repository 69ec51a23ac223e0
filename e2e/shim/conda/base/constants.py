PLATFORM_DIRECTORIES = ("noarch", "linux-32", "linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64")
