{{/* Labels of every object, beside those that select pods. */}}
{{- define "cri-resmgr.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end }}

{{/* The image of a part: list ROOT PART. */}}
{{- define "cri-resmgr.image" -}}
{{- $root := index . 0 }}
{{- with (index . 1).image }}
{{- with $root.Values.registry }}{{ trimSuffix "/" . }}/{{ end }}
{{- .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* What pods of a part take from its values alike: list ROOT PART. */}}
{{- define "cri-resmgr.scheduling" -}}
{{- with (index . 1).nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 1).tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets:
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An option file. Switches and modes are read as `on` and `off`, which YAML takes for booleans. */}}
{{- define "cri-resmgr.options" -}}
{{- range $name, $values := . }}
{{- range $value := kindIs "slice" $values | ternary $values (list $values) }}
{{ $name }} = {{ if kindIs "bool" $value }}{{ ternary "on" "off" $value }}{{ else }}{{ $value }}{{ end }}
{{- end }}
{{- end }}
{{ end }}
