{{- define "stockpot.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "stockpot.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
app.kubernetes.io/name: stockpot
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- end -}}

{{- define "stockpot.selector" -}}
app.kubernetes.io/name: stockpot
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "stockpot.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
{{- end -}}

{{- define "stockpot.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "stockpot.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* What every pod has in common. enableServiceLinks is off: Kubernetes would inject STOCKPOT_PORT=tcp://… */}}
{{- define "stockpot.podSpec" -}}
serviceAccountName: {{ include "stockpot.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
volumes:
  - name: home
    emptyDir: {}
  - name: tmp
    emptyDir: {}
  {{- if .Values.caConfigMap }}
  - name: ca
    configMap:
      name: {{ .Values.caConfigMap }}
  {{- end }}
{{- end -}}

{{- define "stockpot.container" -}}
image: {{ include "stockpot.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
envFrom:
  - secretRef:
      name: {{ .Values.existingSecret }}
volumeMounts:
  - name: home
    mountPath: /var/lib/stockpot
  - name: tmp
    mountPath: /tmp
  {{- if .Values.caConfigMap }}
  - name: ca
    mountPath: /etc/stockpot/ca
    readOnly: true
  {{- end }}
{{- end -}}

{{- define "stockpot.env" -}}
- name: STOCKPOT_LOG_FORMAT
  value: json
{{- range $name, $value := .Values.settings }}
{{- if ne $name "STOCKPOT_LOG_FORMAT" }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end -}}
