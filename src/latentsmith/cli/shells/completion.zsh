#compdef latentsmith
# Completion of latentsmith for zsh: latentsmith completion zsh > DIRECTORY_IN_FPATH/_latentsmith
# The words are those of the installed version and plug-ins: print it again when these change.

_latentsmith_words() {
    case "$1" in
    # TABLE
    esac
}

_latentsmith() {
    local cur="$PREFIX" prev='' key='' recipe='' of='' word
    local -a found
    for word in "${(@)words[2,CURRENT-1]}"; do
        prev="$word"
        [[ "$word" == -* ]] && continue
        if [[ -z "$key" ]]; then
            key="$word"
        elif [[ -n "$(_latentsmith_words "$key $word options")" ]]; then
            key="$key $word"
        elif [[ -z "$recipe" && -n "$(_latentsmith_words "@${word%%.*}")" ]]; then
            recipe="${word%%.*}"
        fi
    done
    of="$(_latentsmith_words "$key of")"
    [[ "$prev" == --* ]] && found=(${=$(_latentsmith_words "$key $prev")})
    if [[ -z "$key" ]]; then
        found=(${=$(_latentsmith_words verbs)})
    elif (( $#found )); then
        :
    elif [[ "$cur" == -* ]]; then
        found=(${=$(_latentsmith_words "$key options")})
    elif [[ "$of" == '*' && -n "$recipe" ]]; then
        found=(${=$(_latentsmith_words "@$recipe")})
    else
        found=(${=$(_latentsmith_words "$key firsts")} ${=$(_latentsmith_words "@$of")})
    fi
    compadd -S '' -- ${(M)found:#*=}
    local none=$?
    compadd -- ${found:#*=} || (( none == 0 )) || _files
}

if [[ "$funcstack[1]" == _latentsmith ]]; then
    _latentsmith "$@"
else
    compdef _latentsmith latentsmith
fi
