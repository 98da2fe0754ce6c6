# Completion of latentsmith for bash: eval "$(latentsmith completion bash)"
# The words are those of the installed version and plug-ins: print it again when these change.

_latentsmith_words() {
    case "$1" in
    # TABLE
    esac
}

_latentsmith() {
    local line cur='' prev='' key='' recipe='' of='' found='' word
    local -a typed
    line="${COMP_LINE:0:$COMP_POINT}"
    read -r -a typed <<<"$line"
    case "$line" in
    *[[:space:]]) ;;
    *) # the last word is being typed
        cur="${typed[${#typed[@]} - 1]}"
        unset "typed[${#typed[@]}-1]"
        ;;
    esac
    for word in "${typed[@]:1}"; do
        prev="$word"
        case "$word" in -*) continue ;; esac
        if [ -z "$key" ]; then
            key="$word"
        elif [ -n "$(_latentsmith_words "$key $word options")" ]; then
            key="$key $word"
        elif [ -z "$recipe" ] && [ -n "$(_latentsmith_words "@${word%%.*}")" ]; then
            recipe="${word%%.*}"
        fi
    done
    of="$(_latentsmith_words "$key of")"
    case "$prev" in --*) found="$(_latentsmith_words "$key $prev")" ;; esac
    if [ -z "$key" ]; then
        found="$(_latentsmith_words verbs)"
    elif [ -n "$found" ]; then
        :
    elif [ "${cur:0:1}" = - ]; then
        found="$(_latentsmith_words "$key options")"
    elif [ "$of" = '*' ] && [ -n "$recipe" ]; then
        found="$(_latentsmith_words "@$recipe")"
    else
        found="$(_latentsmith_words "$key firsts") $(_latentsmith_words "@$of")"
    fi
    COMPREPLY=($(compgen -W "$found" -- "$cur"))
    if [ "${#COMPREPLY[@]}" = 1 ] && [ "${COMPREPLY[0]: -1}" = = ]; then
        compopt -o nospace 2>/dev/null
    fi
    case "$COMP_WORDBREAKS$cur" in
    *=*=*) # to bash the word begins after its =
        COMPREPLY=("${COMPREPLY[@]#"${cur%=*}="}")
        ;;
    esac
}

complete -o default -F _latentsmith latentsmith
