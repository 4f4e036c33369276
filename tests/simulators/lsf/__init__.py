"""An LSF-compatible cluster as far as its programs print it, in two dialects: `volclava` as a real cluster of three
hosts printed it (`recorded/`, with one set of host names and load figures), `ibm` as IBM documents it and others'
parsers know it. What nobody recorded (how an unknown host is named) is a guess, on which nothing relies."""
