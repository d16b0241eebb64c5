"""Where sound comes from: files, a pipe, a microphone. What a source is: `edgetalker.runtime.sources.source.Source`."""
