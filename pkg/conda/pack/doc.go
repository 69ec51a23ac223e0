// Package pack writes environments into archives that are unpacked somewhere else, as conda-pack does.
//
// An archive holds the files of the environment relative to its top, conda-meta, and programs of its own in bin:
//
//	bin/activate, bin/deactivate   to be sourced by a shell; activate.fish for fish
//	bin/conda-unpack               run once: writes the path of the environment into the files that need it
//
// Nobody knows where it will be unpacked, so files with a placeholder go in as the package has them, and conda-unpack has a
// list of them. Three kinds are not in the list: scripts in bin whose first line is all there is to replace, which get
// "#!/usr/bin/env python" and the like; commands of noarch python packages, likewise; and bin/python*, which runs
// conda-unpack and must not change under it. With Options.Prefix the place is known: files have it written into them, as an
// installer would do, and conda-unpack is not needed.
//
// # Formats
//
// tar.gz and tar.zst are joined from cached segments, each a gzip member or zstd frame of its own (see package segment);
// GNU tar, Python and Go read that as one stream. zip is made anew each time; symbolic links become copies of what they
// point to, unless they are asked for, because not every unzip knows them; if they would make the ZIP several times as large
// as the environment, it is refused. squashfs is not made: its format is a file system's, with tables over all files, and no
// part of it could be kept from one environment to the next.
//
// # What is promised
//
// The same packages and options make the same bytes, on any machine, with any number of workers, whether the cache is full
// or empty.
package pack
