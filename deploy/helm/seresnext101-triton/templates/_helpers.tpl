{{/* The name of the release, with that of the chart if it does not contain it. A name may have 63
characters, and the longest ending of a name here has 5. */}}
{{- define "triton.name" -}}
{{- $name := .Release.Name }}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end }}
{{- $name | trunc 58 | trimSuffix "-" }}
{{- end }}

{{- define "triton.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "triton.labels" -}}
{{ include "triton.selector" . }}
app.kubernetes.io/component: server
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "triton.serviceAccount" -}}
{{- if .Values.serviceAccount.name }}{{ .Values.serviceAccount.name }}{{ else if .Values.serviceAccount.create }}{{ include "triton.name" . }}{{ else }}default{{ end -}}
{{- end }}

{{- define "triton.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end }}

{{/* The folder, or the address, that Triton reads the models from. */}}
{{- define "triton.repository" -}}
{{- if eq .Values.repository.type "s3" }}{{ .Values.repository.s3.uri }}{{ else }}/models{{ end -}}
{{- end }}

{{/* The mount of the repository. It cannot be written. */}}
{{- define "triton.repositoryMount" -}}
- name: models
  mountPath: /models
  readOnly: true
  {{- if and (eq .Values.repository.type "pvc") .Values.repository.pvc.subPath }}
  subPath: {{ .Values.repository.pvc.subPath }}
  {{- end }}
{{- end }}

{{/* What values.schema.json cannot express. */}}
{{- define "triton.check" -}}
{{- with .Values.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail (printf "autoscaling.minReplicas is %v and autoscaling.maxReplicas %v: the first must not be larger" .minReplicas .maxReplicas) }}
{{- end }}
{{- end }}
{{- if lt (len (uniq (values .Values.ports))) 3 }}
{{- fail "ports: http, grpc and metrics must differ" }}
{{- end }}
{{- if and (eq .Values.repository.type "image") (semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "repository.type image needs Kubernetes 1.33, and this is %s: use pvc or s3" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- end }}
