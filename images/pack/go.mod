module weft.dev/images/pack

go 1.25.0
