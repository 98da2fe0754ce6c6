# Completion of latentsmith for fish:
#   latentsmith completion fish > ~/.config/fish/completions/latentsmith.fish
# The words are those of the installed version and plug-ins: print it again when these change.

function __latentsmith_words
    switch "$argv[1]"
        # TABLE
    end
end

function __latentsmith
    set -l typed (commandline -opc)
    set -l cur (commandline -ct)
    set -l prev ''
    set -l key ''
    set -l recipe ''
    for word in $typed[2..-1]
        set prev $word
        string match -q -- '-*' $word; and continue
        set -l first (string split -m 1 . -- $word)[1]
        if test -z "$key"
            set key $word
        else if test -n "$(__latentsmith_words "$key $word options")"
            set key "$key $word"
        else if test -z "$recipe"; and test -n "$(__latentsmith_words "@$first")"
            set recipe $first
        end
    end
    set -l of (__latentsmith_words "$key of")
    set -l found
    string match -q -- '--*' "$prev"; and set found (__latentsmith_words "$key $prev")
    if test -z "$key"
        set found (__latentsmith_words verbs)
    else if test -n "$found"
    else if string match -q -- '-*' "$cur"
        set found (__latentsmith_words "$key options")
    else if test "$of" = '*'; and test -n "$recipe"
        set found (__latentsmith_words "@$recipe")
    else
        set found (__latentsmith_words "$key firsts") (__latentsmith_words "@$of")
    end
    set -l fitting (string match -r -- '^'(string escape --style=regex -- "$cur")'.*' $found)
    if test -n "$fitting"
        printf '%s\n' $fitting
    else
        __fish_complete_path "$cur"
    end
end

complete -c latentsmith -f -a '(__latentsmith)'
